"""A device with little memory, for tests on the CPU: passes of too many images at once end in torch's OutOfMemoryError."""

from typing import Any

import pytest
import torch

from repre.models.repre import RePre
from repre.training import memory, micro_batch, step
from repre.training.step import forward_backward
from repre.types import Losses, Views


class FakeMemory:
    """Counts a GiB for every image that is encoded at once, a quarter of one with checkpointing, and one for the rest.

    Attributes:
        capacity: in GiB; may be changed.
        tried: images at once and images in all, of every pass.
    """

    GIB = 2**30

    def __init__(self, capacity: float) -> None:
        self.capacity, self.tried, self._peak = capacity, list[tuple[int, int]](), 0

    def available(self) -> int:
        return int(self.capacity * self.GIB)

    def start(self) -> int:
        self._peak = self.GIB
        return self.GIB

    def peak(self) -> int:
        return self._peak

    def synchronize(self) -> None:
        pass

    def take(self, size: int, images: int, model: RePre | None = None) -> None:
        """Counts passes; raises OutOfMemoryError if they do not fit."""
        size = min(size or images, images)
        self.tried.append((size, images))
        share = 0.25 if model is not None and model.encoder.config.grad_checkpointing else 1.0
        needed = int((1 + share * size) * self.GIB)
        self._peak = max(self._peak, needed)
        if needed > self.available():
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB. And so on"
            )

    def forward_backward(self, model: RePre, views: Views, **settings: Any) -> Losses:
        """The real passes, which may then turn out to have taken too much: the worst moment, with every gradient there."""
        losses = forward_backward(model, views, **settings)
        self.take(settings["micro_batch"], len(views.images[0]), model)
        return losses


def install(monkeypatch: pytest.MonkeyPatch, capacity: float) -> FakeMemory:
    """Gives trainings on the CPU this device's memory."""
    fake = FakeMemory(capacity)
    monkeypatch.setattr(step, "forward_backward", fake.forward_backward)
    monkeypatch.setattr(memory, "forward_backward", fake.forward_backward)
    monkeypatch.setattr(micro_batch, "device_memory", lambda device: fake)
    return fake
