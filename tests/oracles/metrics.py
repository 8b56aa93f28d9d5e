"""Slow, obvious versions of the monitors' metrics."""

import math

import torch
from torch import Tensor

from repre.data.views.augmentations import ViewParameters


def alignment_and_uniformity(first: Tensor, second: Tensor) -> tuple[float, float]:
    def unit(row: Tensor) -> list[float]:
        length = math.sqrt(sum(float(v) ** 2 for v in row))
        return [float(v) / length for v in row]

    def squared(a: list[float], b: list[float]) -> float:
        return sum((x - y) ** 2 for x, y in zip(a, b))

    views = [[unit(row) for row in view] for view in (first, second)]
    alignment = sum(squared(a, b) for a, b in zip(*views)) / len(first)
    terms = [math.exp(-2 * squared(view[i], view[j])) for view in views for i in range(len(first)) for j in range(i)]
    return alignment, math.log(sum(terms) / len(terms))


def matching_cell(
    first: ViewParameters, second: ViewParameters, image: int, cell: int, grid: tuple[int, int]
) -> int | None:
    """Index of the cell of view 2 that shows the center of a cell of view 1; None if it is outside view 2."""
    h, w = grid
    y, x = (cell // w + 0.5) / h, (cell % w + 0.5) / w
    top, left, height, width = first.boxes[image].tolist()
    if bool(first.flip[image]):
        x = 1 - x
    y, x = top + y * height, left + x * width
    top, left, height, width = second.boxes[image].tolist()
    y, x = (y - top) / height, (x - left) / width
    if not (0 <= y < 1 and 0 <= x < 1):
        return None
    if bool(second.flip[image]):
        x = 1 - x
    return min(h - 1, int(y * h)) * w + min(w - 1, int(x * w))


def effective_negatives(queries: Tensor, keys: Tensor, positive: Tensor, temperature: float) -> float:
    entropy = 0.0
    for i, query in enumerate(queries):
        logits = [
            float(torch.cosine_similarity(query, key, dim=0)) / temperature
            for j, key in enumerate(keys)
            if not bool(positive[i, j])
        ]
        weights = [math.exp(v) for v in logits]
        entropy -= sum(v / sum(weights) * math.log(v / sum(weights)) for v in weights) / len(queries)
    return math.exp(entropy)


def ssim(image: Tensor, rebuilt: Tensor, window: int = 11, sigma: float = 1.5) -> float:
    """Structural similarity of two pictures [C, S, S]."""
    weights = torch.tensor(
        [
            [math.exp(-((y - window // 2) ** 2 + (x - window // 2) ** 2) / (2 * sigma**2)) for x in range(window)]
            for y in range(window)
        ],
        dtype=torch.float64,
    )
    weights = weights / weights.sum()
    values = []
    for a, b in zip(image.double(), rebuilt.double()):
        for y in range(a.shape[0] - window + 1):
            for x in range(a.shape[1] - window + 1):
                p, q = a[y : y + window, x : x + window], b[y : y + window, x : x + window]
                m1, m2 = (weights * p).sum(), (weights * q).sum()
                v1, v2 = (weights * (p - m1) ** 2).sum(), (weights * (q - m2) ** 2).sum()
                c = (weights * (p - m1) * (q - m2)).sum()
                value = (2 * m1 * m2 + 1e-4) * (2 * c + 9e-4) / ((m1**2 + m2**2 + 1e-4) * (v1 + v2 + 9e-4))
                values.append(float(value))
    return sum(values) / len(values)
