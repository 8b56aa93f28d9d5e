"""Every command of `repre` as a function. The command line parses options, calls these functions and prints their results.

Each function imports the modules that it needs when it is called, so that `repre --help` and `repre report` load no torch.
"""

from repre.api.datasets import check_data, check_labels, write_scenes, write_shards
from repre.api.encoders import Embeddings, embed, export, load_encoder
from repre.api.evaluations import Comparison, Curve, EvaluationResult, compare, evaluate, evaluate_checkpoints
from repre.api.fitted_models import load_model, predict
from repre.api.runs import Reconstruction, Run, plan, pretrain, reconstruct, report

__all__ = [
    "Comparison",
    "Curve",
    "Embeddings",
    "EvaluationResult",
    "Reconstruction",
    "Run",
    "check_data",
    "check_labels",
    "compare",
    "embed",
    "evaluate",
    "evaluate_checkpoints",
    "export",
    "load_encoder",
    "load_model",
    "plan",
    "predict",
    "pretrain",
    "reconstruct",
    "report",
    "write_scenes",
    "write_shards",
]
