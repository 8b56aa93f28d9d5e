"""The table of evaluations. To add one, write a file with a config and `run`, and add a line here.

The command line, `repre compare` and the report read this table.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from repre.errors import UserError, near_names
from repre.evaluation.classification import finetune, knn, linear
from repre.evaluation.detection import detect
from repre.evaluation.result import Result
from repre.evaluation.segmentation import patch_knn, segment


class Evaluation(NamedTuple):
    """A way to measure encoder quality."""

    config: type[Any]
    """Config class; every field has a default."""
    run: Callable[..., Result]
    """``run(resolved, config, work_dir=...)`` evaluates a `ResolvedEncoder`."""
    description: str
    """What it measures, in one line."""


EVALUATIONS = {
    "knn": Evaluation(knn.KNNConfig, knn.run, "k-nearest neighbors on frozen embeddings"),
    "linear": Evaluation(linear.LinearConfig, linear.run, "a linear classifier on frozen embeddings"),
    "finetune": Evaluation(finetune.FinetuneConfig, finetune.run, "a classifier trained end to end"),
    "segment": Evaluation(
        segment.SegmentConfig, segment.run, "semantic segmentation: linear on frozen maps, or UPerNet"
    ),
    "patch-knn": Evaluation(
        patch_knn.PatchKNNConfig, patch_knn.run, "segmentation by the nearest labeled patches; nothing is trained"
    ),
    "detect": Evaluation(detect.DetectConfig, detect.run, "boxes and instance masks: Mask R-CNN"),
}


def evaluation(name: str) -> Evaluation:
    """Returns the evaluation of a name.

    Raises:
        UserError: there is none; the message suggests near names.
    """
    if name not in EVALUATIONS:
        known = ", ".join(EVALUATIONS)
        raise UserError(f"no evaluation {name!r}{near_names(name, EVALUATIONS)}; there are: {known}")
    return EVALUATIONS[name]
