"""RePre: contrastive pre-training of vision transformers with raw-pixel reconstruction in parallel.

    run = repre.pretrain("vit-small-moco-v3", data="photos/", out="runs/photos")
    encoder = repre.load_encoder("runs/photos")

This is an independent implementation of the idea of RePre (IJCAI 2022, arXiv 2201.06857). Names are imported when they are
first used, so that `repre report` and `repre --help` need no torch.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Read when torch is loaded: threads that wait for work leave the cores to the processes that decode images.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from repre.api import (
        Comparison,
        Curve,
        Embeddings,
        EvaluationResult,
        Reconstruction,
        Run,
        check_data,
        check_labels,
        compare,
        embed,
        evaluate,
        evaluate_checkpoints,
        export,
        load_encoder,
        load_model,
        plan,
        predict,
        pretrain,
        reconstruct,
        report,
        write_scenes,
        write_shards,
    )
    from repre.config import RunConfig
    from repre.data.labels.probe_config import ProbeConfig
    from repre.errors import RunError, UserError
    from repre.evaluation.classification.finetune import FinetuneConfig
    from repre.evaluation.classification.knn import KNNConfig
    from repre.evaluation.classification.linear import LinearConfig
    from repre.evaluation.depth.depth import DepthConfig
    from repre.evaluation.detection.detect import DetectConfig
    from repre.evaluation.fitted.fitted_model import FittedModel, PredictOptions
    from repre.evaluation.fitted.prediction_files import Predictions
    from repre.evaluation.fitted.predictions import Boxes, Classes, DepthMap, Masks
    from repre.evaluation.options import RuntimeOptions
    from repre.evaluation.segmentation.patch_knn import PatchKNNConfig
    from repre.evaluation.segmentation.segment import SegmentConfig
    from repre.exporters import Exported
    from repre.frameworks import (
        BYOL,
        DINO,
        BYOLConfig,
        DINOConfig,
        MoBY,
        MoBYConfig,
        MoCoV3,
        MoCoV3Config,
        SimCLR,
        SimCLRConfig,
    )
    from repre.models.decoder import Decoder, DecoderConfig
    from repre.models.encoder import Encoder, EncoderConfig
    from repre.models.repre import ReconstructionConfig, RePre, build_model
    from repre.models.timm_folder import save_encoder
    from repre.recipes import RECIPES, recipe
    from repre.training.planner import Plan
    from repre.types import Features, Losses, Views

__version__ = "0.1.0"

__all__ = [
    "BYOL",
    "DINO",
    "RECIPES",
    "BYOLConfig",
    "Boxes",
    "Classes",
    "Comparison",
    "Curve",
    "DINOConfig",
    "Decoder",
    "DecoderConfig",
    "DepthConfig",
    "DepthMap",
    "DetectConfig",
    "Embeddings",
    "Encoder",
    "EncoderConfig",
    "EvaluationResult",
    "Exported",
    "Features",
    "FinetuneConfig",
    "FittedModel",
    "KNNConfig",
    "LinearConfig",
    "Losses",
    "Masks",
    "MoBY",
    "MoBYConfig",
    "MoCoV3",
    "MoCoV3Config",
    "PatchKNNConfig",
    "Plan",
    "PredictOptions",
    "Predictions",
    "ProbeConfig",
    "RePre",
    "Reconstruction",
    "ReconstructionConfig",
    "Run",
    "RunConfig",
    "RunError",
    "RuntimeOptions",
    "SegmentConfig",
    "SimCLR",
    "SimCLRConfig",
    "UserError",
    "Views",
    "build_model",
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
    "recipe",
    "reconstruct",
    "report",
    "save_encoder",
    "write_scenes",
    "write_shards",
]

_NAMES = {
    "repre.api": "Comparison Curve Embeddings EvaluationResult Reconstruction Run check_data check_labels compare embed "
    "evaluate evaluate_checkpoints export load_encoder load_model plan predict pretrain reconstruct report "
    "write_scenes write_shards",
    "repre.config": "RunConfig",
    "repre.data.labels.probe_config": "ProbeConfig",
    "repre.errors": "RunError UserError",
    "repre.evaluation.classification.finetune": "FinetuneConfig",
    "repre.evaluation.classification.knn": "KNNConfig",
    "repre.evaluation.classification.linear": "LinearConfig",
    "repre.evaluation.depth.depth": "DepthConfig",
    "repre.evaluation.detection.detect": "DetectConfig",
    "repre.evaluation.fitted.fitted_model": "FittedModel PredictOptions",
    "repre.evaluation.fitted.prediction_files": "Predictions",
    "repre.evaluation.fitted.predictions": "Boxes Classes DepthMap Masks",
    "repre.evaluation.options": "RuntimeOptions",
    "repre.evaluation.segmentation.patch_knn": "PatchKNNConfig",
    "repre.evaluation.segmentation.segment": "SegmentConfig",
    "repre.exporters": "Exported",
    "repre.frameworks": "BYOL DINO BYOLConfig DINOConfig MoBY MoBYConfig MoCoV3 MoCoV3Config SimCLR SimCLRConfig",
    "repre.models.decoder": "Decoder DecoderConfig",
    "repre.models.encoder": "Encoder EncoderConfig",
    "repre.models.repre": "ReconstructionConfig RePre build_model",
    "repre.models.timm_folder": "save_encoder",
    "repre.recipes": "RECIPES recipe",
    "repre.training.planner": "Plan",
    "repre.types": "Features Losses Views",
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}
"""Module of every public name."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'repre' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
