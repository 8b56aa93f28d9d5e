"""Baselines without a contrastive loss, for table 3: the reconstruction branch alone, and a variant of SimMIM.

SimMIM (Xie et al. 2022, arXiv 2111.09886) hides patches of the image from the encoder and predicts their pixels with a
linear layer under an L1 loss. RePre's branch does the same with `views.mask_ratio` and `decoder.kind linear`, given a
framework without a loss of its own. One difference remains: hidden patches get the mean color, not a learned mask token.
"""

from dataclasses import dataclass

import torch
from torch import nn

from repre.frameworks import FRAMEWORKS, Framework, FrameworkConfig
from repre.types import Features, FrameworkOutput


@dataclass(frozen=True, kw_only=True)
class PixelsConfig(FrameworkConfig):
    """Settings of `Pixels`; there are none."""


class Pixels(Framework):
    """A framework whose loss is 0, so that only the reconstruction branch trains the encoder."""

    def __init__(self, config: PixelsConfig, encoder: nn.Module, *, embedding_dim: int) -> None:
        super().__init__()

    def loss(self, student: list[Features], teacher: list[Features], progress: float) -> FrameworkOutput:
        embeddings = torch.stack([view.embedding for view in student])
        return FrameworkOutput(loss=0 * embeddings.sum(), embedding=student[0].embedding.detach())


def register() -> None:
    """Adds the framework `pixels` to repre's table. A function, so that importing this module has no side effect."""
    FRAMEWORKS["pixels"] = (PixelsConfig, Pixels)
