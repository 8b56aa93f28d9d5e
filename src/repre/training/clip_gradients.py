"""Clipping of gradients by their norm, of all together or of each by itself, without waiting for the device."""

from collections.abc import Sequence

import torch
from torch import Tensor

from repre.utils.fsdp import local_tensor, whole_norms


def clip_gradients(
    gradients: Sequence[Tensor], norm: Tensor, limit: float | None, *, unless: Tensor, each: bool = False
) -> None:
    """Scales gradients of this norm down to norm `limit`, in place, unless `unless` is true; None does not clip.

    Args:
        each: limit the norm of every gradient by itself instead, as DINO's authors do; with gradients that are split over
            the ranks it is a collective call.
    """
    if limit is None or not gradients:
        return
    norms = whole_norms(gradients) if each else norm
    factors = (limit / (norms + 1e-6)).clamp(max=1.0)
    factors = factors.where(~unless.to(factors.device), 1.0)
    torch._foreach_mul_([local_tensor(x) for x in gradients], list(factors.unbind()) if each else factors)
