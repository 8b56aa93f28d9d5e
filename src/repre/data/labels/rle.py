"""Masks as COCO writes them: run lengths down the columns, plain or packed, and polygons.

H, W  height and width    n  runs
"""

from typing import Any

import numpy as np
from PIL import Image, ImageDraw

Array = np.ndarray

FINER = 5
"""Polygons are painted on a grid this much finer, and read at the centers of the pixels; odd."""


def decode(segmentation: Any, *, height: int, width: int) -> Array:
    """The mask of a COCO `segmentation`, bool [H, W]; ValueError with the reason where it is none."""
    if isinstance(segmentation, list):
        return _polygons(segmentation, height, width)
    if not isinstance(segmentation, dict) or "counts" not in segmentation or "size" not in segmentation:
        raise ValueError("neither polygons nor run lengths")
    if list(segmentation["size"]) != [height, width]:
        raise ValueError(f"a mask of {segmentation['size']} on an image of {[height, width]}")
    counts = segmentation["counts"]
    if isinstance(counts, str | bytes):
        counts = _unpack(counts.encode("ascii") if isinstance(counts, str) else counts)
    runs = np.asarray(counts, dtype=np.int64)
    if runs.ndim != 1 or (runs < 0).any() or runs.sum() != height * width:
        raise ValueError(f"run lengths that do not add up to {height} x {width} pixels")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def encode(mask: Array) -> dict[str, Any]:
    """Plain run lengths of a mask, bool [H, W]."""
    flat = np.concatenate([[False], mask.T.ravel(), [not mask.T.ravel()[-1]]])
    ends = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff(np.concatenate([[0], ends]))
    return {"size": list(mask.shape), "counts": [int(run) for run in runs]}


def _polygons(rings: list[Any], height: int, width: int) -> Array:
    canvas = Image.new("1", (FINER * width, FINER * height))  # Pillow paints the border too: here a part of a pixel
    draw = ImageDraw.Draw(canvas)
    for ring in rings:
        if not isinstance(ring, list) or len(ring) < 6 or len(ring) % 2:
            raise ValueError("a polygon needs at least three points")
        # COCO's coordinates are of corners, Pillow's of centers of pixels
        draw.polygon([(FINER * x - 0.5, FINER * y - 0.5) for x, y in zip(ring[::2], ring[1::2])], fill=1)
    return np.asarray(canvas, dtype=bool)[FINER // 2 :: FINER, FINER // 2 :: FINER]


def _unpack(packed: bytes) -> list[int]:
    """COCO's string of run lengths: five bits per character, low ones first, from the third on as differences to the run
    before the last."""
    runs: list[int] = []
    place = 0
    while place < len(packed):
        value, shift, more = 0, 0, True
        while more:
            if place == len(packed):
                raise ValueError("a packed mask that ends in the middle of a number")
            bits = packed[place] - 48
            if not 0 <= bits < 64:
                raise ValueError("characters that no packed mask has")
            value |= (bits & 31) << shift
            more, shift, place = bool(bits & 32), shift + 5, place + 1
            if not more and bits & 16:
                value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
    return runs
