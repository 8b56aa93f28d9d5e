"""Where a process computes: device, precision, decoding processes, chosen from what the user asked and what is there."""

import os

import torch

from repre.errors import UserError
from repre.ops.dist import world


def pick_device(name: str) -> torch.device:
    """The device of this process; UserError where it is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            name = "cuda"
        elif torch.backends.mps.is_available():
            name = "mps"
        else:
            name = "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"runtime.device: no device {name!r}; use cpu, cuda, cuda:N or mps") from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError("runtime.device: this machine or this build of torch has no CUDA; use cpu")
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", device.index or 0)))
        torch.cuda.set_device(device)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("runtime.device: mps is not available here; use cpu")
    return device


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        name = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    if name == "fp16" and device.type == "cpu":
        raise UserError("compute.precision fp16 needs a GPU; use bf16 or fp32 on the CPU")
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


def pick_workers(wanted: int | None) -> int:
    """Decoding processes of this rank: as wanted, or a share of the processor's cores."""
    if wanted is not None:
        return wanted
    return max(1, min(16, (os.cpu_count() or 1) // world() - 1))
