"""Opens the data of a classification, and tells how well every class is recognized.

N  images    C  classes
"""

from typing import Any, Protocol

import numpy as np
from torch import Tensor

from repre.data.labels.classes import LabeledSplits, open_labeled
from repre.data.labels.problems import Problems
from repre.evaluation.features import Transform
from repre.evaluation.metrics import balanced_accuracy, per_class


class DataConfig(Protocol):
    """The fields of a config that name labeled data."""

    @property
    def data(self) -> str: ...
    @property
    def test(self) -> str | None: ...
    @property
    def accept_labels(self) -> bool: ...


def open_data(config: DataConfig, transform: Transform, *, channels: int) -> LabeledSplits:
    """Opens labeled images as a transform needs them, and prints what a user should know of them.

    Raises:
        UserError: the data do not exist, or something in them is wrong or doubtful.
    """
    splits = open_labeled(
        config.data,
        test=config.test,
        problems=Problems(accept=config.accept_labels),
        **transform.decoding(channels),
    )
    for note in splits.notes:
        print(note, flush=True)
    return splits


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
