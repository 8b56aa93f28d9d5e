"""The table of tasks of fitted models. To add one, write a file with a subclass of `FittedModel`, and add a line here."""

from repre.evaluation.fitted.fitted_classifier import FittedClassifier
from repre.evaluation.fitted.fitted_depth import FittedDepth
from repre.evaluation.fitted.fitted_detector import FittedDetector
from repre.evaluation.fitted.fitted_model import FittedModel
from repre.evaluation.fitted.fitted_segmenter import FittedSegmenter

TASKS: dict[str, type[FittedModel]] = {
    model.task: model for model in (FittedClassifier, FittedSegmenter, FittedDepth, FittedDetector)
}
"""Class of every task's models, by the name in their config.json."""
