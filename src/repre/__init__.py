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
    from repre.api import load_encoder, pretrain
    from repre.config import RunConfig
    from repre.errors import RunError, UserError
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
    from repre.recipes import RECIPES, recipe
    from repre.types import Features, Losses, Views

__version__ = "0.1.0"

__all__ = [
    "BYOL",
    "DINO",
    "RECIPES",
    "BYOLConfig",
    "DINOConfig",
    "Decoder",
    "DecoderConfig",
    "Encoder",
    "EncoderConfig",
    "Features",
    "Losses",
    "MoBY",
    "MoBYConfig",
    "MoCoV3",
    "MoCoV3Config",
    "RePre",
    "ReconstructionConfig",
    "RunConfig",
    "RunError",
    "SimCLR",
    "SimCLRConfig",
    "UserError",
    "Views",
    "build_model",
    "load_encoder",
    "pretrain",
    "recipe",
]

_HOMES = {
    "repre.api": ("load_encoder", "pretrain"),
    "repre.config": ("RunConfig",),
    "repre.errors": ("RunError", "UserError"),
    "repre.frameworks": (
        "BYOL",
        "DINO",
        "BYOLConfig",
        "DINOConfig",
        "MoBY",
        "MoBYConfig",
        "MoCoV3",
        "MoCoV3Config",
        "SimCLR",
        "SimCLRConfig",
    ),
    "repre.models.decoder": ("Decoder", "DecoderConfig"),
    "repre.models.encoder": ("Encoder", "EncoderConfig"),
    "repre.models.repre": ("RePre", "ReconstructionConfig", "build_model"),
    "repre.recipes": ("RECIPES", "recipe"),
    "repre.types": ("Features", "Losses", "Views"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'repre' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
