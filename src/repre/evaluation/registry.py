"""The table of evaluations. To add one, write a file with a config and `run`, and add a line here.

The command line, `repre compare` and the report read this table. A built-in evaluation is imported when its config or its
function is asked for, so that `repre eval --help` loads no torch, and k-NN none of what detection needs.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from repre.errors import UserError, near_names

if TYPE_CHECKING:
    from repre.evaluation.result import Result


class Evaluation(NamedTuple):
    """A way to measure encoder quality."""

    config: type[Any]
    """Config class; every field has a default."""
    run: Callable[..., Result]
    """``run(resolved, config, work_dir=...)`` evaluates a `ResolvedEncoder`."""
    description: str
    """What it measures, in one line."""
    check: Callable[..., str] | None = None
    """``check(resolved, config)`` opens data and encoder as `run` does, evaluates nothing, and returns the identity of the
    data; raises UserError for a mistake in either. None: only `run` finds mistakes."""


class BuiltIn(NamedTuple):
    """An `Evaluation` that is imported when it is used."""

    module: str
    """Its module below `repre.evaluation`, with a function `run`."""
    config_name: str
    """Name of its config class there."""
    description: str
    """What it measures, in one line."""

    @property
    def config(self) -> type[Any]:
        """Config class; every field has a default."""
        return getattr(import_module(f"repre.evaluation.{self.module}"), self.config_name)

    @property
    def run(self) -> Callable[..., Result]:
        """See `Evaluation`."""
        return import_module(f"repre.evaluation.{self.module}").run

    @property
    def check(self) -> Callable[..., str] | None:
        """See `Evaluation`."""
        return import_module(f"repre.evaluation.{self.module}").check


EVALUATIONS: dict[str, Evaluation | BuiltIn] = {
    "knn": BuiltIn("classification.knn", "KNNConfig", "k-nearest neighbors on frozen embeddings"),
    "linear": BuiltIn("classification.linear", "LinearConfig", "a linear classifier on frozen embeddings"),
    "finetune": BuiltIn("classification.finetune", "FinetuneConfig", "a classifier trained end to end"),
    "segment": BuiltIn(
        "segmentation.segment", "SegmentConfig", "semantic segmentation: linear on frozen maps, or UPerNet"
    ),
    "patch-knn": BuiltIn(
        "segmentation.patch_knn", "PatchKNNConfig", "segmentation by the nearest labeled patches; nothing is trained"
    ),
    "depth": BuiltIn("depth.depth", "DepthConfig", "depth: a linear regression on frozen maps"),
    "detect": BuiltIn("detection.detect", "DetectConfig", "boxes and instance masks: Mask R-CNN"),
}


def evaluation(name: str) -> Evaluation | BuiltIn:
    """Returns the evaluation of a name.

    Raises:
        UserError: there is none; the message suggests near names.
    """
    if name not in EVALUATIONS:
        known = ", ".join(EVALUATIONS)
        raise UserError(f"unknown evaluation {name!r}{near_names(name, EVALUATIONS)}; choose one of: {known}")
    return EVALUATIONS[name]
