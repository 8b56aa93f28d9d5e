"""A dense head to train and test, of classes or of depth: on cached maps (`frozen_maps`) or on crops (`segmenter`)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from repre.data.labels.masks import MaskSource
from repre.data.labels.windows import Plan, WindowsConfig
from repre.evaluation.fit import FitConfig, fit
from repre.evaluation.options import RuntimeOptions
from repre.models.encoder import Encoder


@dataclass(frozen=True, kw_only=True)
class SegmentationTask:
    """A head to train on some labeled images, and images to test it on.

    Attributes:
        encoder: of square images.
        frozen: whether the encoder stays as it is.
        head: takes the maps of `levels`.
        levels: indices of the encoder's maps.
        norm: whether they come after the encoder's final norm.
        train, test: images with masks.
        labeled: indices of the training images that may be used.
        windows: how an image is cut into windows of the encoder's size.
        mean, std: normalization, [C, 1, 1].
        value_range: pixel values that become 0 and 1; None: those of the file type.
        scale, jitter: augmentation of crops, see `CropSteps` and `show`.
        loss: maps what the head gives for windows or crops, float32 [B, K, S, S], and their labels [B, S, S] to a scalar.
        fit: optimizer and schedule.
        seed: of the order and the crops.
        runtime: device, precision, workers, cache.
        work_dir, identity: for checkpoints, see `repre.evaluation.fit`.
    """

    encoder: Encoder
    frozen: bool
    head: nn.Module
    levels: list[int]
    norm: bool
    train: MaskSource
    test: MaskSource
    labeled: list[int]
    windows: WindowsConfig
    mean: Tensor
    std: Tensor
    value_range: tuple[float, float] | None
    scale: tuple[float, float]
    jitter: float
    loss: Callable[[Tensor, Tensor], Tensor]
    fit: FitConfig
    seed: int
    runtime: RuntimeOptions
    work_dir: Path | None
    identity: dict[str, Any]

    @property
    def device(self) -> torch.device:
        """The device to train on."""
        return self.runtime.torch_device

    def train_model(
        self,
        model: nn.Module,
        *,
        batches: Callable[[int], Iterator[Any]],
        loss: Callable[[Any], Tensor],
        steps_per_epoch: int,
        encoder: Encoder | None = None,
    ) -> dict[str, float]:
        """Trains a model; see `fit`. Takes the same number of steps for every label fraction."""
        return fit(
            model,
            batches=batches,
            loss=loss,
            steps=self.fit.passes * steps_per_epoch,
            steps_per_epoch=steps_per_epoch,
            config=self.fit,
            device=self.device,
            precision=self.runtime.dtype,
            seed=self.seed,
            encoder=encoder,
            work_dir=self.work_dir,
            identity=self.identity,
        )


class ImageLogits(NamedTuple):
    """The logits of one test image.

    Attributes:
        windows: of its windows, float32 [n, K, S, S].
        plan: positions of the windows.
        truth: mask at its own resolution, uint8 [H, W]; or depth, float32.
    """

    windows: Tensor
    plan: Plan
    truth: Tensor
