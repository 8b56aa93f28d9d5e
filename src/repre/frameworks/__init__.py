"""Contrastive frameworks: one file each, one line in the table below."""

from torch import nn

from repre.frameworks.base import Framework, FrameworkConfig
from repre.frameworks.byol import BYOL, BYOLConfig
from repre.frameworks.dino import DINO, DINOConfig
from repre.frameworks.moby import MoBY, MoBYConfig
from repre.frameworks.moco_v3 import MoCoV3, MoCoV3Config
from repre.frameworks.simclr import SimCLR, SimCLRConfig
from repre.utils.onednn_linear import use_onednn_linear

FRAMEWORKS: dict[str, tuple[type[FrameworkConfig], type[Framework]]] = {
    "moco-v3": (MoCoV3Config, MoCoV3),
    "dino": (DINOConfig, DINO),
    "moby": (MoBYConfig, MoBY),
    "byol": (BYOLConfig, BYOL),
    "simclr": (SimCLRConfig, SimCLR),
}


def framework_name(config: FrameworkConfig) -> str:
    """The name under which a framework's config stands in the table; LookupError if it stands nowhere."""
    for name, (kind, _) in FRAMEWORKS.items():
        if kind is type(config):
            return name
    raise LookupError(f"{type(config).__name__} is not in repre.frameworks.FRAMEWORKS: add it there under a name")


def build_framework(config: FrameworkConfig, encoder: nn.Module, *, width: int) -> Framework:
    """The framework of a config around an encoder whose embedding is `width` wide; copies the encoder if it teaches."""
    _, kind = FRAMEWORKS[framework_name(config)]
    framework = kind(config, encoder, width=width)
    use_onednn_linear(framework)
    return framework


__all__ = [
    "BYOL",
    "DINO",
    "FRAMEWORKS",
    "BYOLConfig",
    "DINOConfig",
    "Framework",
    "FrameworkConfig",
    "MoBY",
    "MoBYConfig",
    "MoCoV3",
    "MoCoV3Config",
    "SimCLR",
    "SimCLRConfig",
    "build_framework",
    "framework_name",
]
