"""A dense head on the cached maps of a frozen encoder, without augmentation.

N  windows of all images    n  windows of one image    S  side of a window    K  classes    C_l, H_l, W_l  map of level l
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from repre.data.labels.masks import MaskSource
from repre.data.loading.order import epoch_order
from repre.evaluation.maps import CachedMaps, cached_maps
from repre.evaluation.segmentation.segmentation_heads import resize
from repre.evaluation.segmentation.segmentation_task import ImageLogits, SegmentationTask
from repre.utils.amp import autocast
from repre.utils.pieces import Halving
from repre.utils.progress import track


def train_on_maps(task: SegmentationTask) -> dict[str, float]:
    """Trains the head on windows of the labeled images; returns the summary of `fit`."""
    device, batch_size = task.device, task.fit.batch_size
    maps = _maps(task, task.train)
    windows = maps.windows(task.labeled)
    steps_per_epoch = max(1, len(maps.masks) // batch_size)
    task = replace(task, fit=task.fit.for_linear_head(steps_per_epoch))
    head = task.head.to(device)

    def batches(start: int) -> Iterator[tuple[list[Tensor], Tensor]]:
        for step in range(start, task.fit.passes * steps_per_epoch):
            epoch, position = divmod(step, steps_per_epoch)
            order = epoch_order(len(windows), seed=task.seed, epoch=epoch)
            rows = windows[order[np.arange(position * batch_size, (position + 1) * batch_size) % len(order)]]
            yield maps.read(rows, device), torch.from_numpy(maps.masks[rows]).to(device)

    def loss(batch: tuple[list[Tensor], Tensor]) -> Tensor:
        levels, masks = batch
        return task.loss(resize(head(levels).float(), masks.shape[-2:]), masks)

    return task.train_model(head, batches=batches, loss=loss, steps_per_epoch=steps_per_epoch)


@torch.no_grad()
def logits_of_maps(task: SegmentationTask) -> Iterator[ImageLogits]:
    """Yields the logits of every test image in order."""
    maps, pieces = _maps(task, task.test), Halving()
    size = task.windows.size

    def logits(levels: list[Tensor], rows: slice) -> Tensor:
        with autocast(task.device, task.runtime.dtype):
            return resize(task.head([level[rows] for level in levels]).float(), (size, size))

    for index, plan in enumerate(track(maps.plans, "test", total=len(maps.plans))):
        levels = maps.read(maps.windows([index]), task.device)
        windows = torch.cat([*pieces(len(levels[0]), partial(logits, levels))])
        yield ImageLogits(windows, plan, torch.from_numpy(task.test.load(index)[1]))


def _maps(task: SegmentationTask, source: MaskSource) -> CachedMaps:
    return cached_maps(
        task.encoder,
        source,
        task.windows,
        mean=task.mean,
        std=task.std,
        levels=task.levels,
        norm=task.norm,
        runtime=task.runtime,
    )
