"""Segmentation during pre-training: mIoU of a linear head and of nearest patches, on an encoder in memory.

The maps of all windows are computed once and serve both. They lie in a temporary folder, so memory stays bounded.

The linear head is that of `repre eval segment` (normalized maps of all levels on the finest grid, one 1x1 convolution), but
it is trained on patches, each with the class of one of its pixels: seconds instead of minutes.

    D  channels of all levels    K  classes    h, w  finest grid
"""

import math
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from repre.data.labels.masks import MaskOptions, MaskSource, SomeMasks
from repre.data.labels.splits import label_subset
from repre.data.labels.windows import WindowsConfig
from repre.data.views.view_recipes import ViewsConfig
from repre.evaluation.classification.linear import fit_linear
from repre.evaluation.maps import CachedMaps, cached_maps
from repre.evaluation.options import RuntimeOptions
from repre.evaluation.segmentation.patch_knn import NEIGHBORS, TEMPERATURE
from repre.evaluation.segmentation.patch_memory import fill_memory, logits_of_windows, unit_patches, votes_of_maps
from repre.evaluation.segmentation.segment import open_train_and_test, score
from repre.evaluation.segmentation.segmentation_heads import resize
from repre.models.encoder import Encoder

MEMORY = 50_000
"""Most patches that may vote."""
HEAD_VALUES = 2**25
"""Most values of the patches that the linear head is trained on: 128 MiB in float32."""
HEAD_STEPS, HEAD_LR = 1000, 0.3
"""Training of the linear head; the learning rate is that for 256 patches per step."""


class SegmentProbe:
    """Measures an encoder on images with masks.

    Args:
        spec: images with masks, a ``--data`` string of `repre eval segment`.
        options: how the pixels of mask files become classes.
        views: of the pre-training; gives the side of the windows, the normalization and the range of the pixels.
        channels: of the images.
        images: most training images, and most test images; drawn once.
        runtime: batch and workers, and the precision of the encoder; device and cache are not used.

    Raises:
        UserError: the data do not exist, or something in them is wrong.
    """

    def __init__(
        self,
        spec: str,
        options: MaskOptions,
        *,
        views: ViewsConfig,
        channels: int,
        images: int,
        runtime: RuntimeOptions,
    ) -> None:
        train, test = open_train_and_test(
            spec,
            None,
            channels=channels,
            value_range=views.value_range,
            options=options,
            range_option="--views.value-range",
        )
        self.train, self.test = (_some(source, images) for source in (train, test))
        self.windows = WindowsConfig(size=views.shape[0])
        self.mean, self.std = views.statistics(channels)
        self.runtime = runtime

    def __call__(self, encoder: Encoder) -> dict[str, float]:
        """Returns ``probe/miou`` and ``probe/patch_knn``; the encoder must be in evaluation mode."""
        device = next(encoder.parameters()).device
        with TemporaryDirectory(prefix="repre-probe-", ignore_cleanup_errors=True) as folder:
            runtime = replace(self.runtime, device=str(device), cache=Path(folder))
            train, test = (self._maps(encoder, source, runtime) for source in (self.train, self.test))
            return {
                "probe/miou": self._linear(train, test, device=device),
                "probe/patch_knn": self._patch_knn(train, test, device=device),
            }

    def _maps(self, encoder: Encoder, source: MaskSource, runtime: RuntimeOptions) -> CachedMaps:
        levels = list(range(len(encoder.out_indices)))
        return cached_maps(
            encoder, source, self.windows, mean=self.mean, std=self.std, levels=levels, norm=True, runtime=runtime
        )

    def _linear(self, train: CachedMaps, test: CachedMaps, *, device: torch.device) -> float:
        width, classes = sum(level.shape[1] for level in train.levels), len(self.train.classes)
        patches = fill_memory(
            train,
            np.arange(len(train.masks)),
            stacked,
            source=self.train,
            limit=max(1, HEAD_VALUES // width),
            seed=0,
            device=device,
        )
        draw = torch.Generator().manual_seed(0)
        targets = torch.multinomial(patches.labels.cpu(), 1, generator=draw)[:, 0].to(device)
        head = fit_linear(
            patches.features, targets, classes=classes, settings=[(HEAD_LR, 0.0)], steps=HEAD_STEPS, batch_size=256
        )

        def logits(levels: list[Tensor]) -> Tensor:
            cells = stacked(levels).permute(0, 2, 3, 1)
            return head(cells.flatten(0, 2))[:, 0].view(*cells.shape[:3], classes).permute(0, 3, 1, 2)

        return score(logits_of_windows(test, self.test, logits, size=self.windows.size, device=device), self.test).miou

    def _patch_knn(self, train: CachedMaps, test: CachedMaps, *, device: torch.device) -> float:
        patches = unit_patches(-1)
        memory = fill_memory(
            train, np.arange(len(train.masks)), patches, source=self.train, limit=MEMORY, seed=0, device=device
        )
        votes = votes_of_maps(
            memory, test, self.test, patches, k=NEIGHBORS, temperature=TEMPERATURE, size=self.windows.size
        )
        return score(votes, self.test).miou


def stacked(levels: list[Tensor]) -> Tensor:
    """Maps [n, C_l, H_l, W_l] of all levels, resized to the finest grid and stacked: [n, D, h, w]."""
    grid = max((level.shape[-2:] for level in levels), key=math.prod)
    return torch.cat([resize(level, grid) for level in levels], dim=1)


def _some(source: MaskSource, count: int) -> MaskSource:
    """At most `count` images, drawn once."""
    if len(source) <= count:
        return source
    return SomeMasks(source, label_subset(len(source), count / len(source), seed=0))
