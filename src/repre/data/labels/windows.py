"""Windows: cuts images of any size for a model of one size, and merges its predictions again.

A plan states the grid that an image is resized to and the positions of its windows:

    slide    the short side becomes `short_side` (0: the image keeps its size); overlapping windows cover it
    pad      the long side becomes S; one window, with filling beyond the image
    resize   the whole image becomes S x S; its aspect ratio changes

    S  side of a window    n  windows of an image    h, w  grid of an image    K  classes    C  channels
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from repre.data.labels.masks import IGNORE, MaskSource
from repre.data.loading.workers import load_tracked
from repre.errors import UserError

Array = np.ndarray


@dataclass(frozen=True, kw_only=True)
class WindowsConfig:
    """How windows are cut."""

    size: int
    """Side S of a window in pixels."""
    mode: Literal["slide", "pad", "resize"] = "slide"
    """How the image is resized: see the top of this file."""
    overlap: float = 1 / 3
    """Smallest share of a window that the next one covers again."""
    short_side: int | None = None
    """Short side of the resized image for sliding windows; None: S, 0: the image keeps its size."""


@dataclass(frozen=True)
class Plan:
    """Positions of the windows of one image.

    Attributes:
        grid: height and width (h, w) that the image is resized to.
        offsets: top and left of every window in the grid; a window may reach beyond its bottom and right border.
        size: side S of a window.
    """

    grid: tuple[int, int]
    offsets: tuple[tuple[int, int], ...]
    size: int


def plan(height: int, width: int, config: WindowsConfig) -> Plan:
    """Plans the windows of an image of `height` x `width` pixels."""
    size = config.size
    if config.mode == "resize":
        return Plan((size, size), ((0, 0),), size)
    if config.mode == "pad":
        scale = size / max(height, width)
        return Plan((max(1, round(height * scale)), max(1, round(width * scale))), ((0, 0),), size)
    short = size if config.short_side is None else config.short_side
    scale = short / min(height, width) if short else 1.0
    grid = (max(1, round(height * scale)), max(1, round(width * scale)))
    stride = max(1, round(size * (1 - config.overlap)))
    tops, lefts = ([min(i * stride, max(0, side - size)) for i in range(_count(side, size, stride))] for side in grid)
    return Plan(grid, tuple((top, left) for top in tops for left in lefts), size)


def _count(side: int, size: int, stride: int) -> int:
    return math.ceil(max(0, side - size) / stride) + 1


def to_grid(image: Array, grid: tuple[int, int]) -> Tensor:
    """Resizes an image [H, W, C], antialiased: [C, h, w], uint8 from uint8, else float32 in [0, 1]."""
    if image.dtype == np.uint16:
        image = image.astype(np.float32) / np.float32(65535)
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    if tuple(pixels.shape[1:]) == grid:
        return pixels
    return F.interpolate(pixels[None], grid, mode="bilinear", antialias=True)[0]


def mask_to_grid(mask: Array, grid: tuple[int, int]) -> Tensor:
    """Resizes a mask or a depth map [H, W] to [h, w]; every pixel takes the label of the nearest one."""
    rows, columns = (nearest_index(new, old).numpy() for new, old in zip(grid, mask.shape))
    return torch.from_numpy(np.ascontiguousarray(mask[rows[:, None], columns]))


def nearest_index(new: int, old: int) -> Tensor:
    """For each of `new` pixels, the one of `old` pixels of the same length that holds its center: int64 [new]."""
    return ((torch.arange(new) + 0.5) * (old / new)).floor().long().clamp_(max=old - 1)


def cut(values: Tensor, plan: Plan, fill: Tensor | int) -> Tensor:
    """Cuts values [..., h, w] on the plan's grid to windows [n, ..., S, S]; `fill` [..., 1, 1] lies beyond the grid."""
    windows = values.new_empty(len(plan.offsets), *values.shape[:-2], plan.size, plan.size)
    for window, (top, left) in zip(windows, plan.offsets):
        piece = values[..., top : top + plan.size, left : left + plan.size]
        window[:] = fill
        window[..., : piece.shape[-2], : piece.shape[-1]] = piece
    return windows


def merge(windows: Tensor, plan: Plan) -> Tensor:
    """Puts windows [n, K, S, S] back on the grid, [K, h, w], and averages them where they overlap."""
    height, width = plan.grid
    total = windows.new_zeros(windows.shape[1], height, width)
    count = windows.new_zeros(height, width)
    for window, (top, left) in zip(windows, plan.offsets):
        bottom, right = min(height, top + plan.size), min(width, left + plan.size)
        total[:, top:bottom, left:right] += window[:, : bottom - top, : right - left]
        count[top:bottom, left:right] += 1
    return total / count


def unlabeled(labels: Tensor) -> int:
    """The value of a pixel without a label: `IGNORE` in masks (uint8), 0 in depth maps (float32)."""
    return IGNORE if labels.dtype == torch.uint8 else 0


def fill_value(mean: Tensor, dtype: torch.dtype) -> Tensor:
    """A pixel [C, 1, 1] that normalizes to about 0, to fill windows beyond the image."""
    return (mean * 255).round().to(torch.uint8) if dtype == torch.uint8 else mean.to(dtype)


# ------------------------------------------------------------------------------------------------ windows of a source


@dataclass(frozen=True)
class Windows:
    """The windows of one image.

    Attributes:
        pixels: [n, C, S, S], uint8 or float32 in [0, 1].
        masks: uint8 [n, S, S], `IGNORE` beyond the image; or depth, float32, 0 beyond it.
        plan: their positions.
        truth: the mask or the depth at its original size, [H, W].
    """

    pixels: Tensor
    masks: Tensor
    plan: Plan
    truth: Tensor


class WindowSet(Dataset[Windows | UserError]):
    """Item i is image i of a source, cut to windows."""

    def __init__(self, source: MaskSource, config: WindowsConfig, *, mean: Tensor) -> None:
        self.source, self.config, self.mean = source, config, mean

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Windows | UserError:
        try:
            image, mask = load_tracked(self.source, index)
        except UserError as error:  # `in_workers` raises it in the main process
            return error
        windows = plan(mask.shape[0], mask.shape[1], self.config)
        pixels = to_grid(image, windows.grid)
        labels = mask_to_grid(mask, windows.grid)
        masks = cut(labels, windows, unlabeled(labels))
        return Windows(
            cut(pixels, windows, fill_value(self.mean, pixels.dtype)), masks, windows, torch.from_numpy(mask)
        )
