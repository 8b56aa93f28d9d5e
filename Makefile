# Two commands do everything on a fresh machine with Python 3.11 or later and a package index:
#   make demo    own environment, install, pre-train on the embedded scenes, print where the results are
#   make test    own environment, install, lint, types, tests, and the built wheel in an environment of its own
# While you work, make quick runs lint, types and the fast tests; make docs builds the documentation as a site.

PYTHON ?= python3.11
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo test quick lint types pytest long wheel docs pictures bench gpu lease faults clean

demo: $(STAMP)
	$(BIN)/repre pretrain

test: lint types pytest wheel

quick: lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m 'not slow and not long'

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

# In the order of the folders: few tests of a file may take long (those of faults), and would otherwise come last, alone.
pytest: $(STAMP)
	$(BIN)/python -m tests.reporting.browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# Tests that take minutes and of which cheaper ones prove the same: further frameworks, and the real compiler.
long: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m long

# The site, in site/, which opens from the disk; --strict makes a dead link an error.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Every published picture: those of the evidence from its stored results, the others from a quickstart run, trained here.
pictures: $(STAMP)
	$(BIN)/python -m tests.reporting.browser
	$(BIN)/python -m experiments.tables
	$(BIN)/python docs/make_pictures.py

# Speed beside rivals, which get environments of their own; about an hour. PRESET=cuda on a machine with a GPU.
PRESET ?= cpu
bench: $(STAMP)
	$(BIN)/python benchmarks/feeding.py --device $(PRESET)
	$(BIN)/python benchmarks/step.py --preset $(PRESET)
	$(BIN)/python benchmarks/pipeline.py --preset $(PRESET)
	$(BIN)/python benchmarks/pipeline.py --preset $(PRESET) --method dino

# All that needs a GPU, in at most eight minutes: CUDA tests, step, views, loader, rivals, the published recipe, kill and resume.
# IMAGES is a folder of JPEG files; without it they are drawn.
gpu: $(STAMP)
	$(BIN)/python benchmarks/gpu.py $(if $(IMAGES),--images $(IMAGES))

# Nine minutes of experiments on real images, on one GPU: make lease REAL=FOLDER (experiments/README.md). Run it again to resume.
lease: $(STAMP)
	$(BIN)/python benchmarks/gpu.py --parts lease --seconds 560 $(if $(REAL),--real $(REAL))

# The wheel must carry everything: it is installed beside the dependencies, without the sources, and used.
wheel: $(STAMP)
	rm -rf dist $(VENV)/wheel
	$(BIN)/python -m build --wheel --outdir dist
	$(BIN)/python -m pip install --quiet --no-deps --target $(VENV)/wheel dist/*.whl
	cd $(VENV) && PYTHONPATH=wheel bin/python -c "import repre; assert '/wheel/' in repre.__file__, repre.__file__"
	cd $(VENV) && PYTHONPATH=wheel bin/python -m repre.cli --version

# Breaks runs on purpose and writes the results into docs/reliability.md; about half an hour, and SOAK seconds.
SOAK ?= 3600
faults: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults --soak $(SOAK)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) dist site
