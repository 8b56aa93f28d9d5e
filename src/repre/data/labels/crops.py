"""Training crops of images with masks: scale, place and flip are drawn from (seed, epoch, position).

A worker resizes an image to its plan's grid and cuts the box of the crop. The device resizes the box to S x S: pixels with
antialiasing, labels by the nearest pixel, in the same geometry.

    B  crops in the batch    S  side of a crop    K  side of the canvas: the largest box, S over the smallest scale
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from repre.data.labels.masks import MaskSource
from repre.data.labels.windows import WindowsConfig, fill_value, mask_to_grid, nearest_index, plan, to_grid, unlabeled
from repre.data.loading.order import epoch_order
from repre.data.loading.workers import in_workers, load_tracked
from repre.data.views.augmentations import ViewConfig, draw
from repre.data.views.fused import ViewGroup
from repre.data.views.random_streams import Operation, RandomStreams
from repre.data.views.render import render
from repre.data.views.view_recipes import VALUE_RANGES
from repre.errors import UserError


class Crops(NamedTuple):
    """The boxes of one step, before they are resized.

    Attributes:
        pixels: [B, C, K, K], uint8 or float32 in [0, 1]; box i fills the top left corner.
        masks: uint8 [B, K, K], or depth, float32.
        sides: sides of the boxes, int64 [B].
        positions: position of every crop in the order of its epoch, int64 [B].
        epoch: epoch of the step, counted from 0.
    """

    pixels: Tensor
    masks: Tensor
    sides: Tensor
    positions: Tensor
    epoch: int


class CropSteps(Dataset[Crops | UserError]):
    """Item t is step t, a function of t and the seed.

    Args:
        source: images and masks.
        chosen: indices of the images to train on. If they are fewer than a batch, it shows them several times, in
            different crops.
        config: grid of the images and size of the crops.
        scale: smallest and largest factor by which an image is enlarged before S x S are cut from it; uniform.
        batch_size: crops per step.
        steps_per_epoch: batches of an epoch; every epoch has an order of its own.
        seed: seed of orders and crops.
        mean: mean of every channel in [0, 1], [C, 1, 1]; fills crops beyond the image.
    """

    def __init__(
        self,
        source: MaskSource,
        chosen: list[int],
        config: WindowsConfig,
        *,
        scale: tuple[float, float],
        batch_size: int,
        steps_per_epoch: int,
        seed: int,
        mean: Tensor,
    ) -> None:
        self.source, self.chosen, self.config, self.scale, self.mean = source, chosen, config, scale, mean
        self.batch_size, self.steps_per_epoch, self.seed = batch_size, steps_per_epoch, seed

    def __getitem__(self, step: int) -> Crops | UserError:
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        positions = torch.arange(step_in_epoch * self.batch_size, (step_in_epoch + 1) * self.batch_size)
        order = epoch_order(len(self.chosen), seed=self.seed, epoch=epoch)
        streams = RandomStreams(seed=self.seed, epoch=epoch, positions=positions)
        numbers = streams.uniforms(Operation.LABELED_CROP, 3)
        try:
            boxes = [
                self._box(self.chosen[order[position % len(order)]], row)
                for position, row in zip(positions.tolist(), numbers.tolist())
            ]
        except UserError as error:  # `in_workers` raises it in the main process
            return error
        pixels, masks, sides = zip(*boxes)
        if len({canvas.dtype for canvas in pixels}) > 1:
            pixels = tuple(canvas / 255 if canvas.dtype == torch.uint8 else canvas for canvas in pixels)
        return Crops(torch.stack(pixels), torch.stack(masks), torch.tensor(sides), positions, epoch)

    def _box(self, index: int, numbers: list[float]) -> tuple[Tensor, Tensor, int]:
        """Pixels [C, K, K], mask [K, K] and side of the box of a crop, from random numbers for its scale, top and left."""
        image, mask = load_tracked(self.source, index)
        grid = plan(mask.shape[0], mask.shape[1], self.config).grid
        smallest, largest = self.scale
        side = round(self.config.size / (smallest + (largest - smallest) * numbers[0]))
        top, left = (int(u * (max(0, length - side) + 1)) for u, length in zip(numbers[1:], grid))
        pixels = to_grid(image, grid)[:, top : top + side, left : left + side]
        labels = mask_to_grid(mask, grid)[top : top + side, left : left + side]
        canvas = round(self.config.size / smallest)
        image_canvas = fill_value(self.mean, pixels.dtype).repeat(1, canvas, canvas)
        image_canvas[:, : pixels.shape[1], : pixels.shape[2]] = pixels
        label_canvas = torch.full((canvas, canvas), unlabeled(labels), dtype=labels.dtype)
        label_canvas[: labels.shape[0], : labels.shape[1]] = labels
        return image_canvas, label_canvas, side


def crop_batches(steps: CropSteps, *, start: int, total: int, workers: int, pin: bool) -> Iterator[Crops]:
    """Yields the batches of the steps from `start` up to `total`, made ahead in workers."""
    return in_workers(steps, range(start, total), workers=workers, pin=pin)


def render_crops(
    crops: Crops, *, size: int, seed: int, jitter: float, mean: Tensor, std: Tensor, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Resizes crops on the device, flips half of them and changes their colors.

    Args:
        crops: boxes of one step.
        size: side S of the crops.
        seed: seed of flips and colors.
        jitter: probability of a color jitter (brightness, contrast, saturation 0.4, 0.4, 0.2; hue 0.1).
        mean, std: of every channel, [C, 1, 1] on the CPU.

    Returns:
        Normalized images, float32 [B, C, S, S], and masks, int64 [B, S, S]; or depth, float32.
    """
    view = ViewConfig(flip=0.5, jitter=jitter)
    sides = crops.sides.cpu()
    sizes = torch.stack([sides, sides], dim=1)
    streams = RandomStreams(seed=seed, epoch=crops.epoch, positions=crops.positions)
    parameters = draw(view, sizes, streams)
    pixels, masks = (values.to(device, non_blocking=True) for values in (crops.pixels, crops.masks))
    zero = torch.zeros_like(sides)
    boxes = torch.stack([zero, zero, sides, sides], dim=1)
    value_range = VALUE_RANGES[pixels.dtype]
    group = ViewGroup(size, [replace(parameters, boxes=boxes)], [view])
    images = render(pixels, [group], value_range=value_range, mean=mean, std=std)[0].images[0]
    rows = torch.stack([nearest_index(size, side) for side in sides.tolist()])  # [B, S]
    columns = torch.where(parameters.flip[:, None], rows.flip(1), rows)
    batch = torch.arange(len(rows), device=device)[:, None, None]
    labels = masks[batch, rows.to(device)[:, :, None], columns.to(device)[:, None, :]]
    return images, labels.long() if labels.dtype == torch.uint8 else labels
