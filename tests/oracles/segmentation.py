"""Slow and simple implementations of what segmentation computes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repre.data.labels.masks import IGNORE
from repre.evaluation.segmentation.segmentation_heads import LinearHead


def confusion(truth: Tensor, predicted: Tensor, classes: int) -> list[list[int]]:
    counts = [[0] * classes for _ in range(classes)]
    for t, p in zip(truth.flatten().tolist(), predicted.flatten().tolist()):
        if t != IGNORE:
            counts[t][p] += 1
    return counts


def iou(truth: Tensor, predicted: Tensor, classes: int) -> list[float | None]:
    """Intersection over union of the sets of counted pixels of every class; None where none has it."""
    pixels = [(t, p) for t, p in zip(truth.flatten().tolist(), predicted.flatten().tolist()) if t != IGNORE]
    values: list[float | None] = []
    for c in range(classes):
        true_here = {i for i, (t, _) in enumerate(pixels) if t == c}
        predicted_here = {i for i, (_, p) in enumerate(pixels) if p == c}
        union = true_here | predicted_here
        values.append(len(true_here & predicted_here) / len(union) if true_here else None)
    return values


def merged(windows: Tensor, offsets: list[tuple[int, int]], grid: tuple[int, int]) -> Tensor:
    """Mean over the windows [n, K, S, S] that cover each cell of the grid, [K, h, w]."""
    size = windows.shape[-1]
    out = torch.zeros(windows.shape[1], *grid, dtype=windows.dtype)
    for y in range(grid[0]):
        for x in range(grid[1]):
            covering = [
                window[:, y - top, x - left]
                for window, (top, left) in zip(windows, offsets)
                if top <= y < top + size and left <= x < left + size
            ]
            out[:, y, x] = torch.stack(covering).mean(0)
    return out


def linear_head(head: LinearHead, maps: list[Tensor]) -> Tensor:
    """Normalize, resize every level to the finest grid, concatenate, and one 1x1 convolution over all channels."""
    grid = max((m.shape[-2:] for m in maps), key=lambda g: g[0] * g[1])
    stacked = torch.cat(
        [F.interpolate(norm(m), tuple(grid), mode="bilinear") for norm, m in zip(head.norms, maps)], dim=1
    )
    weight = torch.cat([conv.weight for conv in head.convs if isinstance(conv, nn.Conv2d)], dim=1)
    return F.conv2d(stacked, weight, head.bias.flatten())


def loss(logits: Tensor, masks: Tensor, weights: Tensor | None) -> Tensor:
    total, weight = torch.zeros(()), torch.zeros(())
    for b in range(len(masks)):
        for y in range(masks.shape[1]):
            for x in range(masks.shape[2]):
                t = int(masks[b, y, x])
                if t != IGNORE:
                    w = weights[t] if weights is not None else torch.tensor(1.0)
                    total = total - w * logits[b, :, y, x].log_softmax(0)[t]
                    weight = weight + w
    return total / weight


def shares_of_classes(mask: Tensor, grid: tuple[int, int], classes: int) -> list[list[float]]:
    """Of every cell, row by row, the share of every class among its labeled pixels."""
    side = mask.shape[0]
    counts = [[0.0] * classes for _ in range(grid[0] * grid[1])]
    for y in range(side):
        for x in range(side):
            if int(mask[y, x]) != IGNORE:
                row, column = int((y + 0.5) * grid[0] / side), int((x + 0.5) * grid[1] / side)
                counts[row * grid[1] + column][int(mask[y, x])] += 1
    return [[count / sum(cell) if sum(cell) else 0.0 for count in cell] for cell in counts]


def patch_votes(
    features: Tensor, labels: list[list[float]], query: Tensor, *, k: int, temperature: float
) -> list[float]:
    """What the k patches nearest to one query [C] vote for; `features` [M, C] of any length."""
    cosines = [float(F.cosine_similarity(patch, query, dim=0)) for patch in features]
    nearest = sorted(range(len(cosines)), key=lambda patch: -cosines[patch])[:k]
    weights = torch.tensor([cosines[patch] / temperature for patch in nearest]).softmax(0).tolist()
    return [sum(w * labels[patch][c] for w, patch in zip(weights, nearest)) for c in range(len(labels[0]))]
