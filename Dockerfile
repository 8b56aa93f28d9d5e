# docker build -t repre .        docs/install.md says how to run it.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir build && python -m build --wheel --outdir /wheels

FROM python:${PYTHON}-slim
# Extras of pyproject.toml, such as onnx,huggingface.
ARG EXTRAS=""
# Another index of torch, such as https://download.pytorch.org/whl/cpu; the wheels of PyPI for Linux bring CUDA.
ARG TORCH_INDEX=""
# torch.compile builds small programs in C on the first run.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY --from=wheel /wheels /wheels
RUN if [ -n "${TORCH_INDEX}" ]; then pip install --no-cache-dir --index-url "${TORCH_INDEX}" torch torchvision; fi \
    && pip install --no-cache-dir "$(echo /wheels/*.whl)${EXTRAS:+[${EXTRAS}]}"
# A user without rights. Any other (--user) may write to both folders too; caches are in the home folder.
RUN useradd --uid 1000 --no-create-home --home-dir /cache repre && install --directory --mode 1777 /cache /workspace
ENV HOME=/cache USER=repre
USER repre
WORKDIR /workspace
ENTRYPOINT ["repre"]
CMD ["--help"]
