"""Masks that hide patches of the global views from the encoder, as pure functions of uniform random numbers.

B  images in the batch    N  patches of a view: rows x columns
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from repre.data.views.random_streams import Operation, RandomStreams

ATTEMPTS = 48
"""Rectangles tried for one mask at most. With 14 x 14 patches, of which half are hidden, a mask takes 14 on average."""
FAILURES = 10
"""Attempts that may fail one after another before a mask takes no more rectangles."""
MIN_BLOCK = 4
"""Patches of the smallest rectangle, unless fewer are left to hide."""
ASPECT = (0.3, 1 / 0.3)
"""Lowest and highest height of a rectangle over its width, before both are rounded."""


def draw_masks(
    streams: RandomStreams,
    *,
    kind: Literal["random", "block"],
    ratio: tuple[float, float],
    image_share: float,
    grid: tuple[int, int],
    views: range,
) -> list[Tensor]:
    """Draws which patches are hidden, for each of the views a bool [B, rows, columns]; every image by itself.

    Args:
        streams: random numbers of the batch's samples.
        kind: single patches anywhere, or rectangles.
        ratio: lowest and highest share of the patches that a masked image hides; uniform between them.
        image_share: probability that a view of an image is masked.
        grid: rows and columns.
        views: numbers of the views.
    """
    rows, columns = grid
    of_mask = (Operation.PATCH_MASK, rows * columns)
    if kind == "block":
        of_mask = (Operation.BLOCK_MASK, 4 * ATTEMPTS + rows * columns)
    of_counts = streams.uniforms_of_views(Operation.MASK_RATIO, 2, views)
    masks = []
    for numbers, for_count in zip(streams.uniforms_of_views(*of_mask, views), of_counts):
        count = mask_counts(for_count, ratio=ratio, image_share=image_share, patches=rows * columns)
        if kind == "block":
            masks.append(block_masks(numbers, count, rows=rows, columns=columns))
        else:
            masks.append(hide_patches(numbers, count).view(-1, rows, columns))
    return masks


def mask_counts(numbers: Tensor, *, ratio: tuple[float, float], image_share: float, patches: int) -> Tensor:
    """How many patches of every image are hidden, int64 [B]; 0 for images that are not masked.

    iBOT (arXiv 2111.07832, section 4.1) hides nothing in half of the images and 10 % to 50 % in the others.

    Args:
        numbers: random numbers in [0, 1), [B, 2].
        ratio, image_share: those of `draw_masks`.
        patches: N.
    """
    low, high = ratio
    count = (patches * (low + (high - low) * numbers[:, 1])).round().long()
    return count.where(numbers[:, 0] < image_share, 0)


def hide_patches(numbers: Tensor, count: Tensor) -> Tensor:
    """Chooses exactly count[i] patches of image i, bool [B, N].

    Args:
        numbers: random numbers, [B, N]; the lowest ones hide their patch.
        count: int64 [B].
    """
    order = numbers.numpy().argsort(axis=1)  # several times as fast as torch's
    hidden = np.empty(order.shape, dtype=bool)
    np.put_along_axis(hidden, order, np.arange(order.shape[1]) < count.numpy()[:, None], axis=1)
    return torch.from_numpy(hidden)


def block_masks(numbers: Tensor, count: Tensor, *, rows: int, columns: int) -> Tensor:
    """Hides rectangles of patches, and then single ones up to exactly count[i] in image i: bool [B, rows, columns].

    As in BEiT (arXiv 2106.08254, algorithm 1), iBOT and DINOv2: rectangles of random area and aspect are added as long as
    patches are left to hide. One that would hide nothing new, or too much, is drawn again, up to 10 times. As in DINOv3
    (arXiv 2508.10104), whose masks all have the wanted count, what is missing then is chosen at random.

    Args:
        numbers: random numbers in [0, 1), [B, 4 n + N]: area, aspect, top and left of n attempts, then one for each patch.
        count: patches to hide, int64 [B].
        rows, columns: of the grid; N = rows x columns.
    """
    attempts, of_patches = numbers[:, : -rows * columns], numbers[:, -rows * columns :]
    hidden = _rectangles(attempts.unflatten(1, (-1, 4)).numpy(), count.numpy(), rows, columns)
    order = of_patches.where(~torch.from_numpy(hidden), -1.0)
    return hide_patches(order, count).view(-1, rows, columns)


def _rectangles(numbers: np.ndarray, count: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The rectangles of `block_masks`, at most count[i] patches of image i: bool [B, N] from `numbers` [B, n, 4].

    One attempt at a time for all images that still take rectangles.
    """
    hidden = np.zeros((len(count), rows * columns), dtype=bool)
    y, x = (i.reshape(-1).astype(np.int16) for i in np.indices((rows, columns)))  # of every patch, [N]
    active = np.flatnonzero(count > 0)
    left, failures = count[active], np.zeros(len(active), dtype=np.int64)
    for attempt in numbers.transpose(1, 2, 0):  # [4, B]
        if len(active) == 0:
            break
        area, aspect, top, start = attempt[:, active]
        area = MIN_BLOCK + (left - MIN_BLOCK) * area
        aspect = ASPECT[0] * (ASPECT[1] / ASPECT[0]) ** aspect
        height, width = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
        fits = (height < rows) & (width < columns)
        top, start = np.floor(top * (rows - height + 1)), np.floor(start * (columns - width + 1))
        edges = np.stack([top, top + height, start, start + width])[..., None].astype(np.int16)  # [4, active, 1]
        fresh = (y >= edges[0]) & (y < edges[1]) & (x >= edges[2]) & (x < edges[3]) & ~hidden[active]
        new = fresh.view(np.uint8).sum(1, dtype=np.uint16).astype(np.int64)
        taken = fits & (new > 0) & (new <= left)
        hidden[active[taken]] |= fresh[taken]
        left, failures = left - new * taken, np.where(taken, 0, failures + 1)
        going = (left > 0) & (failures < FAILURES)
        active, left, failures = active[going], left[going], failures[going]
    return hidden
