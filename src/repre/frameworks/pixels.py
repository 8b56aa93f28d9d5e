"""Pixels alone: no contrast, only the reconstruction branch trains the encoder.

Without masks this is RePre (arXiv 2201.06857) without its framework. With masks, one global view and `decoder.kind linear`
it is SimMIM (Xie et al. 2022, arXiv 2111.09886).
"""

from dataclasses import dataclass

from torch import nn

from repre.frameworks.base import Framework, FrameworkConfig, Needs
from repre.types import Features, FrameworkOutput, Views


@dataclass(frozen=True, kw_only=True)
class PixelsConfig(FrameworkConfig):
    """Settings of the pixels framework; the sections `reconstruction`, `decoder` and `views.mask` have them."""


class Pixels(Framework):
    """A loss of 0, so that the branch alone trains. The pooled embedding gets no gradient, as in MAE (arXiv 2111.06377)."""

    needs = Needs(global_views=1, branch=True)

    def __init__(self, config: PixelsConfig, encoder: nn.Module, *, embedding_dim: int) -> None:
        super().__init__()
        self.config = config

    def loss(self, student: list[Features], teacher: list[Features], views: Views, progress: float) -> FrameworkOutput:
        embedding = student[0].embedding.detach()
        return FrameworkOutput(loss=embedding.new_zeros(()), embedding=embedding)
