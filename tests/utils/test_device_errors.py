"""Errors of a device become two sentences: what happened and what helps. Others stay what they are."""

import pytest
import torch
import torch.distributed as dist

from repre.errors import RunError
from repre.utils.device_errors import describe_device_error, first_sentences
from repre.utils.pieces import FinalMemoryError

NOTE = "\nCUDA kernel errors might be asynchronously reported at some other API call.\nCompile with TORCH_USE_CUDA_DSA"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            torch.AcceleratorError(f"CUDA error: an illegal memory access was encountered{NOTE}"),
            "the device failed (CUDA error: an illegal memory access was encountered): a computation on the device failed",
        ),
        (
            torch.AcceleratorError("CUDA error: unspecified launch failure"),
            "the GPU or its driver failed; see `nvidia-smi`",
        ),
        (torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"), "restart the machine"),
        (torch.AcceleratorError("CUDA error: something new"), "--runtime.device cpu"),
        (RuntimeError("CUDA error: no kernel image is available for execution on the device"), "https://pytorch.org"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "the device failed (cuDNN error: CUDNN_STATUS"),
        (RuntimeError("Found no NVIDIA driver on your system. Please check"), "install it if there is an NVIDIA GPU"),
        (
            torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB free. See the docs"
            ),
            "memory ran out (CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB free): end other processes",
        ),
        (torch.AcceleratorError("CUDA error: out of memory"), "memory ran out (CUDA error: out of memory)"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "memory ran out"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), "memory ran out (MPS"),
        (MemoryError(), "memory ran out: end other processes"),
        (FinalMemoryError("CUDA out of memory. Tried. GPU"), "memory ran out (CUDA out of memory. Tried. GPU)"),
        (
            dist.DistBackendError(f"NCCL error in: x.cpp:1, unhandled system error{NOTE}"),
            "the processes lost one another",
        ),
    ],
)
def test_a_device_error_is_put_into_words(error: BaseException, words: str) -> None:
    description = describe_device_error(error)
    assert description is not None
    assert words in description
    assert "\n" not in description
    assert "DSA" not in description
    assert not description.endswith(".")


@pytest.mark.parametrize(
    "error",
    [RunError("CUDA error: 5"), RuntimeError("shapes cannot be multiplied"), ValueError("CUDA error"), KeyError()],
)
def test_other_errors_are_left_alone(error: BaseException) -> None:
    assert describe_device_error(error) is None


def test_sentences_end_at_full_stops_and_not_at_decimal_points() -> None:
    assert first_sentences(RuntimeError("Tried 2.00 GiB. GPU 0 is full.\nmore")) == "Tried 2.00 GiB"
    assert first_sentences(RuntimeError("Tried 2.00 GiB. GPU 0 is full.\nmore"), 2) == "Tried 2.00 GiB. GPU 0 is full"
    assert first_sentences(RuntimeError()) == ""
