"""Mixed precision: the one place that enters autocast and allows TF32."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager[Any]:
    """Autocast to bfloat16 or float16; with float32 or float64 it switches off any autocast around it.

    Args:
        precision: what matrix products are computed in.
    """
    if not torch.amp.is_autocast_available(device.type):  # meta tensors, for one
        return nullcontext()
    low = precision in (torch.bfloat16, torch.float16)
    return torch.autocast(device.type, dtype=precision if low else None, enabled=low)


@contextmanager
def tf32(precision: torch.dtype) -> Iterator[None]:
    """Inside, CUDA multiplies float32 matrices in TF32, with 10 bits of the mantissa, if `precision` is lower than float32.

    Heads and losses stay in float32 under mixed precision, but their products need no more bits than what is fed to them.
    With `precision` float32 nothing changes.
    """
    if precision not in (torch.bfloat16, torch.float16):
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
