"""Mixed precision: the one place that enters autocast."""

from contextlib import AbstractContextManager, nullcontext
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
