"""Patches of labeled images with the classes of their pixels, and the votes of the nearest of them for other patches.

A patch is a cell of a map. Its label is the share of every class among its pixels, so a patch on the edge of an object
votes for both sides of it.

    M  patches in the memory    n  windows    S  side of a window    h, w  grid of a map    C  channels    K  classes
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from repre.data.labels.masks import IGNORE, MaskSource
from repre.errors import UserError
from repre.evaluation.classification.knn import nearest_votes
from repre.evaluation.maps import CachedMaps
from repre.evaluation.segmentation.segmentation_heads import resize
from repre.evaluation.segmentation.segmentation_task import ImageLogits

WINDOWS_AT_ONCE = 8
DRAW = 4
"""Random stream of the draw of patches; `repre.data.labels.splits` has the others."""

Features = Callable[[list[Tensor]], Tensor]
"""Maps of n windows, [n, C_l, H_l, W_l] per level -> what stands for their patches, [n, C, h, w]."""


@dataclass(frozen=True)
class PatchMemory:
    """Labeled patches.

    Attributes:
        features: float32 [M, C].
        labels: share of every class among the labeled pixels of the patch, float32 [M, K].
    """

    features: Tensor
    labels: Tensor


def unit_patches(level: int) -> Features:
    """Returns the map of one level with every patch at unit length."""
    return lambda levels: F.normalize(levels[level], dim=1)


def shares_of_classes(masks: Tensor, grid: tuple[int, int], classes: int) -> Tensor:
    """Returns the share of every class among the labeled pixels of every cell, float32 [n, h * w, K].

    A pixel belongs to the cell that holds its center. A cell without labeled pixels has zeros. In slow loops::

        for y, x in pixels of a window:
            if mask[y, x] != IGNORE:
                counts[floor((y + 0.5) h / S), floor((x + 0.5) w / S), mask[y, x]] += 1
        counts / the sum of a cell's counts

    Args:
        masks: uint8 [n, S, S].
    """
    cells = grid[0] * grid[1]
    rows, columns = (
        (2 * torch.arange(pixels) + 1) * side // (2 * pixels) for side, pixels in zip(grid, masks.shape[1:])
    )
    index = torch.arange(len(masks))[:, None, None] * cells + rows[:, None] * grid[1] + columns
    known = masks != IGNORE
    counts = (index * classes + masks)[known].bincount(minlength=len(masks) * cells * classes)
    counts = counts.view(len(masks), cells, classes).float()
    return counts / counts.sum(2, keepdim=True).clamp_min(1)


def fill_memory(
    maps: CachedMaps,
    windows: np.ndarray,
    features: Features,
    *,
    source: MaskSource,
    limit: int,
    seed: int,
    device: torch.device,
) -> PatchMemory:
    """Draws labeled patches, the same number from every window; all of them where there are fewer.

    Args:
        maps: of `source`.
        windows: indices of the windows to draw from.
        features: what stands for a patch.
        limit: most patches.
        seed: of the draw; which patches of a window are drawn does not depend on the other windows.
        device: of the result.

    Raises:
        UserError: no patch has a labeled pixel.
    """
    if len(windows) > limit:
        windows = np.sort(_generator(seed).permutation(windows)[:limit])
    quota = limit // len(windows)
    drawn_features, drawn_labels = [], []
    for start in range(0, len(windows), WINDOWS_AT_ONCE):
        numbers = windows[start : start + WINDOWS_AT_ONCE]
        patches = features(maps.read(numbers, device))
        grid = (patches.shape[2], patches.shape[3])
        labels = shares_of_classes(torch.from_numpy(maps.masks[numbers]), grid, len(source.classes))
        for number, window_patches, window_labels in zip(numbers.tolist(), patches.flatten(2), labels):
            labeled = window_labels.any(1).nonzero()[:, 0].numpy()
            drawn = torch.from_numpy(np.sort(_generator(seed, number).permutation(labeled)[:quota]))
            drawn_features.append(window_patches[:, drawn.to(device)].T)
            drawn_labels.append(window_labels[drawn])
    memory = PatchMemory(torch.cat(drawn_features), torch.cat(drawn_labels).to(device))
    if not len(memory.labels):
        raise UserError(f"every pixel of the training masks of {source.spec} is ignored; label some")
    return memory


def votes_of_maps(
    memory: PatchMemory,
    maps: CachedMaps,
    source: MaskSource,
    features: Features,
    *,
    k: int,
    temperature: float,
    size: int,
) -> Iterator[ImageLogits]:
    """Yields for every image of `source` what the k nearest patches of the memory vote for, in order.

    Args:
        memory: patches at unit length.
        maps: of `source`.
        features: as they were for the memory.
        k, temperature: a neighbor's vote has the weight exp(cosine / temperature); the k weights sum to 1.
        size: side of a window, to which the votes are resized.
    """
    classes = memory.labels.shape[1]

    def votes(levels: list[Tensor]) -> Tensor:
        patches = features(levels)
        queries = patches.permute(0, 2, 3, 1)  # [n, h, w, C]
        found = nearest_votes(
            memory.features, memory.labels, queries.flatten(0, 2), k=(k,), temperature=temperature, classes=classes
        )[k]
        return found.view(*queries.shape[:3], classes).permute(0, 3, 1, 2)

    yield from logits_of_windows(maps, source, votes, size=size, device=memory.features.device)


def logits_of_windows(
    maps: CachedMaps, source: MaskSource, logits: Features, *, size: int, device: torch.device
) -> Iterator[ImageLogits]:
    """Yields the logits of every image of `source` in order, resized to the side of a window.

    Args:
        maps: of `source`.
        logits: maps of n windows -> their logits, [n, K, h, w].
    """
    for index, plan in enumerate(maps.plans):
        windows = maps.windows([index])
        parts = np.array_split(windows, -(-len(windows) // WINDOWS_AT_ONCE))
        found = torch.cat([resize(logits(maps.read(part, device)), (size, size)) for part in parts])
        yield ImageLogits(found, plan, torch.from_numpy(source.load(index)[1]))


def _generator(seed: int, *key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, DRAW, *key]))
