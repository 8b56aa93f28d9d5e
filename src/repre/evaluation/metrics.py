"""Figures of a classifier on test images: accuracy, or mean average precision where an image may have several labels.

N  images    C  classes
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from repre.errors import UserError

TOP = 5
TOP_FROM = 10
"""Number of classes from which the top-5 accuracy says something."""


def classification(scores: Tensor, targets: Tensor) -> dict[str, float]:
    """The figures of scores [N, C], larger for a likelier class.

    Args:
        targets: int64 [N] gives ``accuracy`` and, from 10 classes on, ``top5``; 0/1 [N, C] gives ``map``.
    """
    if targets.ndim == 2:
        precisions = average_precision(scores, targets)
        return {"map": float(precisions[~precisions.isnan()].mean())}
    figures = {"accuracy": float((scores.argmax(1) == targets).double().mean())}
    if scores.shape[1] >= TOP_FROM:
        best = scores.topk(TOP, dim=1).indices
        figures["top5"] = float((best == targets[:, None]).any(1).double().mean())
    return figures


def per_class(scores: Tensor, targets: Tensor, classes: list[str]) -> dict[str, float | None]:
    """Accuracy (or average precision) of every class by name; None for a class without test images."""
    if targets.ndim == 2:
        found = average_precision(scores, targets)
    else:
        right = (scores.argmax(1) == targets).double()
        counts = torch.bincount(targets, minlength=len(classes))
        found = torch.bincount(targets, weights=right, minlength=len(classes)) / counts
    return {name: None if value != value else round(value, 6) for name, value in zip(classes, found.tolist())}


def average_precision(scores: Tensor, targets: Tensor) -> Tensor:
    """Average precision of every class, float64 [C]; NaN for a class without positives.

    Slowly, for one class::

        for t in the distinct scores, falling:
            chosen = scores >= t
            AP += (recall(chosen) - recall before) * precision(chosen)

    Args:
        scores: [N, C]; targets: 0/1, [N, C].
    """
    count = len(scores)
    ordered, order = scores.sort(dim=0, descending=True, stable=True)
    hits = targets.double().gather(0, order).cumsum(0)  # true positives among the first n, [N, C]
    places = torch.arange(1, count + 1, device=scores.device, dtype=torch.float64)[:, None]
    ends = torch.ones_like(ordered, dtype=torch.bool)
    ends[:-1] = ordered[1:] != ordered[:-1]  # images of equal scores are chosen together
    # What a threshold adds: its hits less those of the threshold before, 0 in the midst of equal scores.
    before = torch.where(ends, hits, 0).cummax(0).values.roll(1, 0)
    before[0] = 0
    gained = torch.where(ends, (hits - before) * hits / places, 0)
    return gained.sum(0) / hits[-1]  # [C]


def check_fractions(fractions: Sequence[float]) -> None:
    """UserError unless these are shares of the labels, each named once."""
    if not fractions or not all(0 < share <= 1 for share in fractions) or len(set(fractions)) < len(fractions):
        raise UserError(f"label_fraction must name shares in (0, 1], each once, not {tuple(fractions)}")


def with_share(name: str, share: float, fractions: Sequence[float]) -> str:
    """The name of a figure at a share of the labels: bare for the largest, ``accuracy@0.01`` for others."""
    return name if share == max(fractions) else f"{name}@{share:g}"
