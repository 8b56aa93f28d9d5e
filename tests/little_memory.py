"""A device with little memory for evaluations: encoders take only so many images at once."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from repre.models.encoder import Encoder
from repre.types import Features

forward = Encoder.forward


def little_memory(
    monkeypatch: pytest.MonkeyPatch, images: int, *, when: Callable[[], bool] = lambda: True
) -> list[int]:
    """Lets encoders take so many images at once; returns the list that the sizes of their batches are added to.

    Args:
        when: may spare some passes.
    """
    sizes: list[int] = []

    def limited(encoder: Encoder, x: Tensor, **settings: Any) -> Features:
        features = forward(encoder, x, **settings)
        if when():
            sizes.append(len(x))
            if len(x) > images:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")
        return features

    monkeypatch.setattr(Encoder, "forward", limited)
    return sizes
