"""Self-supervised frameworks: one file each, one line in the table below."""

import torch
from torch import nn

from repre.frameworks.base import Framework, FrameworkConfig, Needs
from repre.frameworks.byol import BYOL, BYOLConfig
from repre.frameworks.dino import DINO, DINOConfig
from repre.frameworks.dinov2 import DINOv2, DINOv2Config
from repre.frameworks.moby import MoBY, MoBYConfig
from repre.frameworks.moco_v3 import MoCoV3, MoCoV3Config
from repre.frameworks.pixels import Pixels, PixelsConfig
from repre.frameworks.simclr import SimCLR, SimCLRConfig
from repre.types import Features, FrameworkOutput, Views
from repre.utils.dist import single_process
from repre.utils.onednn_linear import use_onednn_linear

FRAMEWORKS: dict[str, tuple[type[FrameworkConfig], type[Framework]]] = {
    "moco-v3": (MoCoV3Config, MoCoV3),
    "dino": (DINOConfig, DINO),
    "moby": (MoBYConfig, MoBY),
    "byol": (BYOLConfig, BYOL),
    "simclr": (SimCLRConfig, SimCLR),
    "pixels": (PixelsConfig, Pixels),
    "dinov2": (DINOv2Config, DINOv2),
}


def framework_name(config: FrameworkConfig) -> str:
    """The name of a framework's config in the table; LookupError if it is missing there."""
    for name, (kind, _) in FRAMEWORKS.items():
        if kind is type(config):
            return name
    raise LookupError(f"{type(config).__name__} is not in repre.frameworks.FRAMEWORKS: add it there under a name")


def build_framework(config: FrameworkConfig, encoder: nn.Module, *, embedding_dim: int) -> Framework:
    """Builds the framework of a config around an encoder, and copies the encoder if the framework has a teacher.

    Args:
        embedding_dim: width D of the encoder's pooled embedding.

    Raises:
        TypeError: the framework's `loss` does not return what a `FrameworkOutput` must hold.
        UserError: the encoder does not fit the framework.
    """
    _, kind = FRAMEWORKS[framework_name(config)]
    framework = kind(config, encoder, embedding_dim=embedding_dim)
    patch_dim = encoder.patch_dim if kind.needs.patches else None
    _check_output(framework, embedding_dim=embedding_dim, patch_dim=patch_dim)  # type: ignore[arg-type]
    use_onednn_linear(framework)
    return framework


@torch.no_grad()
def _check_output(framework: Framework, *, embedding_dim: int, patch_dim: int | None) -> None:
    """Calls `loss` once on random features, so that a faulty framework fails here and not in the first step."""
    generator = torch.Generator().manual_seed(0)
    embeddings = [torch.randn(2, embedding_dim, generator=generator) for _ in range(2)]
    patches = [None if patch_dim is None else torch.randn(2, 4, patch_dim, generator=generator) for _ in range(2)]
    features = [Features(*tensors) for tensors in zip(embeddings, patches)]
    seen = Views(
        images=[],
        targets=[],
        n_global=2,
        masks=[torch.tensor([[[True, False], [False, False]]] * 2)] * 2 if framework.needs.masks else None,
        crops=[torch.tensor([[0.0, 0.0, 1.0, 1.0, 0.0]] * 2)] * 2 if framework.needs.crops else None,
    )
    with single_process(), torch.random.fork_rng(devices=[]):
        output = framework.loss(features, features, seen, 0.0)
    name = type(framework).__name__
    if not isinstance(output, FrameworkOutput):
        raise TypeError(f"{name}.loss must return a FrameworkOutput (repre.types), not {type(output).__name__}")
    if output.embedding.shape != (2, embedding_dim):
        raise TypeError(
            f"{name}.loss: embedding must be the student's, [B, {embedding_dim}], not {list(output.embedding.shape)}"
        )
    for metric, value in {"loss": output.loss, **output.terms, **output.metrics}.items():
        if value.ndim:
            raise TypeError(f"{name}.loss: {metric} must be a scalar, not {list(value.shape)}")


__all__ = [
    "BYOL",
    "DINO",
    "FRAMEWORKS",
    "BYOLConfig",
    "DINOConfig",
    "DINOv2",
    "DINOv2Config",
    "Framework",
    "FrameworkConfig",
    "MoBY",
    "MoBYConfig",
    "MoCoV3",
    "MoCoV3Config",
    "Needs",
    "Pixels",
    "PixelsConfig",
    "SimCLR",
    "SimCLRConfig",
    "build_framework",
    "framework_name",
]
