"""Starts without contrast, for table 3: the reconstruction branch alone, and with a mask SimMIM's way.

SimMIM (Xie et al. 2022, arXiv 2111.09886) hides patches of the image from the encoder and rebuilds their pixels with a
linear layer under L1. repre's branch does the same with `views.mask_ratio` and `decoder.kind linear`; what is missing is a
framework that asks for nothing. Hidden patches become the mean color here, where SimMIM learns a token.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from repre import frameworks
from repre.frameworks import Framework, FrameworkConfig
from repre.types import Diagnostics, Features


@dataclass(frozen=True, kw_only=True)
class PixelsConfig(FrameworkConfig):
    """No contrastive loss, so no settings."""


class Pixels(Framework):
    """A loss of 0 on the embeddings: what trains is the branch."""

    def __init__(self, config: PixelsConfig, encoder: nn.Module, *, width: int) -> None:
        super().__init__()

    def loss(self, student: list[Features], teacher: list[Features], progress: float) -> tuple[Tensor, Diagnostics]:
        embeddings = torch.stack([view.embedding for view in student])
        return 0 * embeddings.sum(), {"embedding": student[0].embedding.detach()}


def register() -> None:
    """Put the framework in the table that configs are read with. A call: an import that did it would change the tests."""
    frameworks.FRAMEWORKS["pixels"] = (PixelsConfig, Pixels)
