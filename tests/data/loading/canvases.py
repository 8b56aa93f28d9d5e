"""Looks into the canvases of a batch."""

from torch import Tensor

from repre.types import Canvases


def each_canvas(pixels: Canvases) -> list[Tensor]:
    """The canvas [C, K, K] of every image, in the order of the batch."""
    if isinstance(pixels, Tensor):
        return list(pixels)
    found = {
        int(row): canvas
        for group, rows in zip(pixels.groups, pixels.rows)
        for row, canvas in zip(rows, group, strict=True)
    }
    return [found[row] for row in range(pixels.shape[0])]
