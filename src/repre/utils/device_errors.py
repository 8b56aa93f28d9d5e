"""Errors of the device in words: what happened, and what helps. torch's own classes are caught where a command ends."""

import torch
import torch.distributed as dist

from repre.errors import RunError
from repre.utils.pieces import FinalMemoryError, is_out_of_memory

FAULTS = (
    (
        ("no kernel image is available", "device kernel image is invalid"),
        "this build of torch does not support this GPU; install one that does from https://pytorch.org, or use cpu",
    ),
    (
        ("busy or unavailable", "exclusive"),
        "another process uses this GPU exclusively; wait for it, or choose another one with --runtime.device cuda:N",
    ),
    (("invalid device ordinal",), "there is no such GPU; `nvidia-smi -L` lists the GPUs"),
    (("no NVIDIA driver",), "install it if there is an NVIDIA GPU, or use cpu"),
    (
        ("driver version is insufficient", "driver on your system is too old", "driver error"),
        "update the NVIDIA driver, or install a build of torch for the installed one from https://pytorch.org",
    ),
    (
        ("illegal memory access", "device-side assert", "misaligned address", "illegal instruction"),
        "a computation on the device failed, perhaps long before this was noticed; CUDA_LAUNCH_BLOCKING=1 shows where",
    ),
    (
        ("uncorrectable ECC", "unspecified launch failure", "unknown error", "GPU is lost", "hardware stack error"),
        "the GPU or its driver failed; see `nvidia-smi`, and restart the machine if it does not answer",
    ),
)
"""Parts of CUDA's messages, and what helps. A message that is not here is shown as it is."""
PLAIN_ERRORS = (
    "CUDA error",
    "CUDA driver",
    "CUDA initialization",
    "cuDNN error",
    "cuBLAS",
    "NCCL error",
    "NVIDIA driver",
)
"""How the messages of a device begin, or a part of them, where torch raises a plain RuntimeError."""


def describe_device_error(error: BaseException) -> str | None:
    """What went wrong on a device and what helps, in two sentences without the last full stop; None for other errors."""
    final = isinstance(error, FinalMemoryError)
    if (isinstance(error, RunError) and not final) or not isinstance(error, RuntimeError | MemoryError):
        return None
    words = first_sentences(error)
    if final or is_out_of_memory(error):
        words = first_sentences(error, 3)  # torch's second and third say how much was wanted and how much there is
        advice = "end other processes that use it, use a smaller batch or smaller images, or --runtime.device cpu"
        return f"memory ran out ({words}): {advice}" if words else f"memory ran out: {advice}"
    if isinstance(error, dist.DistError):
        return f"the processes lost one another ({words}); the message of the one that failed first gives the reason"
    if isinstance(error, torch.AcceleratorError) or any(part in words for part in PLAIN_ERRORS):
        return f"the device failed ({words}): {device_advice(str(error))}"
    return None


def device_advice(message: str) -> str:
    """What helps against an error of CUDA."""
    for parts, advice in FAULTS:
        if any(part in message for part in parts):
            return advice
    return "see `nvidia-smi`; with --runtime.device cpu the same command runs without the GPU"


def first_sentences(error: BaseException, count: int = 1) -> str:
    """The first sentences of an error's first line, without the last full stop; further lines are for programmers."""
    lines = str(error).strip().splitlines()
    return ". ".join(lines[0].split(". ")[:count]).strip().rstrip(".") if lines else ""
