"""Metrics of a classifier on test images: accuracy, or mean average precision if images have several labels.

N  images    C  classes
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from repre.errors import UserError

TOP = 5
MIN_CLASSES_FOR_TOP = 10
"""With fewer classes the top-5 accuracy says little."""


def classification(scores: Tensor, targets: Tensor) -> dict[str, float]:
    """Returns ``accuracy`` and, from 10 classes on, ``top5``; or ``map`` for several labels per image.

    Args:
        scores: [N, C], higher for a likelier class.
        targets: int64 [N], or 0/1 [N, C] for several labels per image.
    """
    scores, targets = scores.cpu(), targets.cpu()  # not every device has float64
    if targets.ndim == 2:
        precisions = average_precision(scores, targets)
        return {"map": float(precisions[~precisions.isnan()].mean())}
    metrics = {"accuracy": float((scores.argmax(1) == targets).double().mean())}
    if scores.shape[1] >= MIN_CLASSES_FOR_TOP:
        top = scores.topk(TOP, dim=1).indices
        metrics["top5"] = float((top == targets[:, None]).any(1).double().mean())
    return metrics


def per_class(scores: Tensor, targets: Tensor, classes: list[str]) -> dict[str, float | None]:
    """Returns the accuracy (or average precision) of every class by name; None for a class without test images.

    Args:
        scores, targets: as `classification` takes them.
        classes: names.
    """
    scores, targets = scores.cpu(), targets.cpu()
    if targets.ndim == 2:
        values = average_precision(scores, targets)
    else:
        correct = (scores.argmax(1) == targets).double()
        counts = torch.bincount(targets, minlength=len(classes))
        values = torch.bincount(targets, weights=correct, minlength=len(classes)) / counts
    return {name: None if math.isnan(value) else round(value, 6) for name, value in zip(classes, values.tolist())}


def balanced_accuracy(accuracies: Mapping[str, float | None]) -> float:
    """Returns the mean accuracy of the classes that have test images: every class weighs the same, however rare.

    Args:
        accuracies: by class, as `per_class` returns them.
    """
    known = [accuracy for accuracy in accuracies.values() if accuracy is not None]
    return sum(known) / max(1, len(known))


def average_precision(scores: Tensor, targets: Tensor) -> Tensor:
    """Returns the average precision of every class, float64 [C]; NaN for a class without positives.

    In slow loops, for one class::

        for t in the distinct scores, falling:
            chosen = scores >= t
            AP += (recall(chosen) - recall of the threshold before) * precision(chosen)

    Args:
        scores: [N, C].
        targets: 0/1, [N, C].
    """
    count = len(scores)
    ordered, order = scores.sort(dim=0, descending=True, stable=True)
    hits = targets.double().gather(0, order).cumsum(0)  # true positives among the first n, [N, C]
    ranks = torch.arange(1, count + 1, device=scores.device, dtype=torch.float64)[:, None]
    ends = torch.ones_like(ordered, dtype=torch.bool)
    ends[:-1] = ordered[1:] != ordered[:-1]  # images of equal scores are chosen together
    # Every threshold adds its hits less those of the threshold before; within equal scores nothing is added.
    before = torch.where(ends, hits, 0).cummax(0).values.roll(1, 0)
    before[0] = 0
    gained = torch.where(ends, (hits - before) * hits / ranks, 0)
    return gained.sum(0) / hits[-1]  # [C]


def check_fractions(fractions: Sequence[float]) -> None:
    """Raises UserError unless these are fractions of the labels, each named once."""
    if not fractions or not all(0 < fraction <= 1 for fraction in fractions) or len(set(fractions)) < len(fractions):
        raise UserError(f"label_fraction must be different fractions above 0 and at most 1, not {tuple(fractions)}")


def with_fraction(name: str, fraction: float, fractions: Sequence[float]) -> str:
    """Returns the name of a metric at a label fraction: bare for the largest, ``accuracy@0.01`` for others."""
    return name if fraction == max(fractions) else f"{name}@{fraction:g}"
