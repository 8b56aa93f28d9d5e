"""Batches of images with objects, for training and testing a detector.

n  objects of an image    H, W  height and width
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from repre.data.labels.boxes import BoxSource, Objects
from repre.data.loading.order import epoch_order
from repre.data.loading.workers import load_tracked
from repre.data.views.random_streams import Operation, RandomStreams
from repre.errors import UserError

PIXEL_MAX: dict[np.dtype[Any], float] = {np.dtype("uint8"): 255.0, np.dtype("uint16"): 65535.0}


class Detections(NamedTuple):
    """The objects that a detector finds in an image, likeliest first.

    Attributes:
        boxes: float32 [n, 4]: left, top, right, bottom in pixels.
        labels: int64 [n], from 1: classes[label - 1].
        scores: float32 [n].
        masks: bool [n, H, W]; None if no masks are predicted.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    masks: np.ndarray | None

    def above(self, threshold: float) -> "Detections":
        """Returns the detections with a score of at least `threshold`."""
        chosen = self.scores >= threshold
        masks = None if self.masks is None else self.masks[chosen]
        return Detections(self.boxes[chosen], self.labels[chosen], self.scores[chosen], masks)


class TrainBatches(Dataset[list[Objects] | UserError]):
    """Item t is the batch of step t, a function of t and the seed. Half of the images are flipped.

    Args:
        source: images with objects.
        labeled: indices of the images that may be used; if they are fewer than a batch, it repeats them.
        batch_size: images per step.
        steps_per_epoch: steps after which another order begins.
        seed: of the order and the flips.
    """

    def __init__(
        self, source: BoxSource, labeled: list[int], *, batch_size: int, steps_per_epoch: int, seed: int
    ) -> None:
        self.source, self.labeled, self.batch_size = source, labeled, batch_size
        self.steps_per_epoch, self.seed = steps_per_epoch, seed

    def __getitem__(self, step: int) -> list[Objects] | UserError:
        epoch, number = divmod(step, self.steps_per_epoch)
        positions = torch.arange(number * self.batch_size, (number + 1) * self.batch_size)
        order = epoch_order(len(self.labeled), seed=self.seed, epoch=epoch)
        streams = RandomStreams(seed=self.seed, epoch=epoch, positions=positions)
        flips = (streams.uniforms(Operation.FLIP, 1)[:, 0] < 0.5).tolist()
        indices = [self.labeled[order[position % len(order)]] for position in positions.tolist()]
        try:
            batch = [load_tracked(self.source, index) for index in indices]
        except UserError as error:
            return error
        return [flip_horizontally(objects) if flip else objects for objects, flip in zip(batch, flips)]


class IndexedImages(Dataset[tuple[int, Objects] | UserError]):
    """Item i is i and image i, with its objects."""

    def __init__(self, source: BoxSource) -> None:
        self.source = source

    def __getitem__(self, index: int) -> tuple[int, Objects] | UserError:
        try:
            return index, load_tracked(self.source, index)
        except UserError as error:
            return error


def flip_horizontally(objects: Objects) -> Objects:
    """Returns the mirrored image with its boxes and masks."""
    width = objects.image.shape[1]
    boxes = objects.boxes.copy()
    boxes[:, [0, 2]] = width - objects.boxes[:, [2, 0]]
    return objects._replace(
        image=np.ascontiguousarray(objects.image[:, ::-1]),
        boxes=boxes,
        masks=np.ascontiguousarray(objects.masks[:, :, ::-1]),
    )


def to_images(images: list[np.ndarray], device: torch.device) -> list[Tensor]:
    """Returns images [H, W, 3] as torchvision's detectors take them: float32 [3, H, W] in [0, 1] on the device."""
    return [
        torch.tensor(image, device=device).permute(2, 0, 1).float() / PIXEL_MAX.get(image.dtype, 1.0)
        for image in images
    ]


def to_targets(batch: list[Objects], device: torch.device) -> list[dict[str, Tensor]]:
    """Returns targets as torchvision's detectors take them: boxes [n, 4], labels [n], masks [n, H, W]; without crowds."""
    return [
        {
            "boxes": torch.from_numpy(objects.boxes[~objects.crowd]).to(device),
            "labels": torch.from_numpy(objects.labels[~objects.crowd]).to(device),
            "masks": torch.from_numpy(objects.masks[~objects.crowd].astype(np.uint8)).to(device),
        }
        for objects in batch
    ]
