"""Sizes of images and views: one side of a square, or height and width."""

from __future__ import annotations

from typing import TYPE_CHECKING

from repre.errors import UserError

if TYPE_CHECKING:  # configs read this file, and the help of commands loads no torch
    from torch import Tensor

Size = int | tuple[int, int]
"""A side in pixels, or (height, width)."""


def height_and_width(size: Size) -> tuple[int, int]:
    """(height, width) of a size; UserError for anything else."""
    sides = (size, size) if isinstance(size, int) else size
    if not isinstance(sides, tuple | list) or [type(side) for side in sides] != [int, int]:
        raise UserError(f"a size must be a number of pixels, or height and width, not {size!r}")
    return sides[0], sides[1]


def shortest(size: Size) -> Size:
    """The size with a square as its side alone, so that 96 and (96, 96) are the same setting."""
    height, width = height_and_width(size)
    return height if height == width else (height, width)


def as_text(size: Size) -> str:
    """``96`` or ``96 x 128``, for messages."""
    return " x ".join(map(str, size)) if isinstance(size, tuple) else str(size)


def as_option(size: Size) -> str:
    """``96`` or ``96 128``: what the command line takes."""
    return " ".join(map(str, size)) if isinstance(size, tuple) else str(size)


def resize_to(images: Tensor, longest: int) -> Tensor:
    """Resizes images [B, C, H, W] so that their longer side is `longest`."""
    import torch.nn.functional as F

    scale = longest / max(images.shape[-2:])
    grid = tuple(max(1, round(side * scale)) for side in images.shape[-2:])
    return F.interpolate(images, grid, mode="bilinear", antialias=True)


def shrink(images: Tensor, longest: int) -> Tensor:
    """Images [B, C, H, W] whose longer side is at most `longest`; smaller ones are returned as they are."""
    return resize_to(images, longest) if max(images.shape[-2:]) > longest else images
