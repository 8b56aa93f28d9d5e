"""Metrics of every class of a classification, in addition to those over all images.

N  images    C  classes
"""

from typing import Any

import numpy as np
from torch import Tensor

from repre.data.labels.classes import LabeledSplits
from repre.evaluation.metrics import balanced_accuracy, per_class


def class_details(scores: Tensor, targets: Tensor, splits: LabeledSplits) -> dict[str, Any]:
    """Returns the metric of every class; with one label per image their mean, and the share of the largest class.

    ``majority_class`` is the most frequent class of the training images and its share of the test images: the accuracy
    of always naming it.

    Args:
        scores: of the test images, [N, C].
        targets: int64 [N], or 0/1 [N, C] for several labels per image.
        splits: the data.
    """
    by_class = per_class(scores, targets, splits.classes)
    if splits.multilabel:
        return {"per_class": by_class}
    majority = int(np.bincount(splits.train.targets).argmax())
    share = float((splits.test.targets == majority).mean())
    return {
        "per_class": by_class,
        "balanced_accuracy": balanced_accuracy(by_class),
        "majority_class": {"name": splits.classes[majority], "share": share},
    }
