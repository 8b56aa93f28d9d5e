"""Figures of semantic segmentation, all from one confusion matrix over a whole data set.

K  classes    t  true label    p  predicted label
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from repre.data.labels.masks import IGNORE


class Confusion:
    """Counts pixels of every (true, predicted) pair of classes.

    Attributes:
        counts: int64 [K, K] on the CPU, rows by truth.
    """

    def __init__(self, classes: int) -> None:
        self.counts = torch.zeros(classes, classes, dtype=torch.int64)

    def add(self, truth: Tensor, predicted: Tensor) -> None:
        """Slowly: ``counts[t, p] += 1`` for every pixel whose truth is not `IGNORE`; labels of any equal shape."""
        classes = len(self.counts)
        known = truth != IGNORE
        t, p = truth[known].long(), predicted[known].long()
        assert t.numel() == 0 or (int(t.max()) < classes and int(p.max()) < classes), "a label out of range"
        self.counts += torch.bincount(t * classes + p, minlength=classes**2).view(classes, classes).cpu()

    def scores(self) -> "Scores":
        hits = self.counts.diag().double()
        union = (self.counts.sum(0) + self.counts.sum(1)).double() - hits
        occurs = union > 0
        iou = [float(h / u) if u > 0 else None for h, u in zip(hits, union)]
        pixels = max(1, int(self.counts.sum()))
        return Scores(
            miou=float((hits[occurs] / union[occurs]).mean()) if bool(occurs.any()) else 0.0,
            pixel_accuracy=float(hits.sum()) / pixels,
            iou=iou,
        )


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix says.

    Attributes:
        miou: mean intersection over union of the classes that occur in truth or prediction at a counted pixel.
        pixel_accuracy: share of the counted pixels that are right.
        iou: per class, hits / (true + predicted - hits); None for a class that does not occur.
    """

    miou: float
    pixel_accuracy: float
    iou: list[float | None]
