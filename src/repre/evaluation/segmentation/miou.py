"""Metrics of semantic segmentation, from one confusion matrix over a whole data set.

K  classes    t  true label    p  predicted label
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from repre.data.labels.masks import IGNORE


@dataclass(frozen=True)
class Scores:
    """Metrics of a confusion matrix.

    Attributes:
        miou: mean intersection over union of the classes that occur in the truth at a counted pixel.
        pixel_accuracy: share of the counted pixels that are correct.
        iou: per class, hits / (true + predicted - hits); None for a class that does not occur in the truth.
    """

    miou: float
    pixel_accuracy: float
    iou: list[float | None]


class Confusion:
    """Counts pixels of every (true, predicted) pair of classes.

    Attributes:
        counts: int64 [K, K] on the CPU, rows by truth.
    """

    def __init__(self, classes: int) -> None:
        self.counts = torch.zeros(classes, classes, dtype=torch.int64)

    def add(self, truth: Tensor, predicted: Tensor) -> None:
        """Counts ``counts[t, p] += 1`` for every pixel whose true label is not `IGNORE`.

        Args:
            truth, predicted: integer labels of any equal shape, on one device.
        """
        classes = len(self.counts)
        known = truth != IGNORE
        t, p = truth[known].long(), predicted[known].long()
        assert t.numel() == 0 or (int(t.max()) < classes and int(p.max()) < classes), "a label out of range"
        self.counts += torch.bincount(t * classes + p, minlength=classes**2).view(classes, classes).cpu()

    def scores(self) -> Scores:
        """Returns the metrics of all pixels so far."""
        hits = self.counts.diag().double()
        union = (self.counts.sum(0) + self.counts.sum(1)).double() - hits
        occurs = self.counts.sum(1) > 0
        return Scores(
            miou=float((hits[occurs] / union[occurs]).mean()) if bool(occurs.any()) else 0.0,
            pixel_accuracy=float(hits.sum()) / max(1, int(self.counts.sum())),
            iou=[float(h / u) if known else None for h, u, known in zip(hits, union, occurs)],
        )
