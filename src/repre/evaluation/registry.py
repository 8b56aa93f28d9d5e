"""The table of evaluations. To add one: a file with a config and `run`, and a line here; the command line, `compare`
and the report find it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from repre.errors import UserError, near_names
from repre.evaluation.classification import finetune, knn, linear
from repre.evaluation.detection import detect
from repre.evaluation.result import Result
from repre.evaluation.segmentation import segment


class Evaluation(NamedTuple):
    """One way to say what an encoder is worth."""

    config: type[Any]
    """Its config; every field has a default."""
    run: Callable[..., Result]
    """``run(start, config, work=...)``."""
    words: str
    """What it does, in a line."""


EVALUATIONS = {
    "knn": Evaluation(knn.KNNConfig, knn.run, "k-nearest neighbors on frozen embeddings"),
    "linear": Evaluation(linear.LinearConfig, linear.run, "a linear classifier on frozen embeddings"),
    "finetune": Evaluation(finetune.FinetuneConfig, finetune.run, "a classifier trained end to end"),
    "segment": Evaluation(
        segment.SegmentConfig, segment.run, "semantic segmentation: linear on frozen maps, or UPerNet"
    ),
    "detect": Evaluation(detect.DetectConfig, detect.run, "boxes and instance masks: Mask R-CNN"),
}


def evaluation(name: str) -> Evaluation:
    """The evaluation of a name; UserError with near names if there is none."""
    if name not in EVALUATIONS:
        known = ", ".join(EVALUATIONS)
        raise UserError(f"no evaluation {name!r}{near_names(name, EVALUATIONS)}; there are: {known}")
    return EVALUATIONS[name]


def results_folder(start_folder: Path | None, spec: str) -> Path:
    """Where results on an encoder lie: beside it, or under ``evaluations/`` here where it has no folder of its own."""
    if start_folder is not None:
        return start_folder / "evaluations"
    slug = "".join(c if c.isalnum() or c in "-_." else "-" for c in spec).strip("-.")[:80]
    return Path("evaluations") / slug
