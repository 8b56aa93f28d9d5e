"""SimCLR (Chen et al. 2020, arXiv 2002.05709): views of one image agree against all other images of the batch."""

from dataclasses import dataclass

import torch
from torch import nn

from repre.frameworks.base import Framework, FrameworkConfig
from repre.frameworks.contrast_metrics import negative_metrics, positive_mask, retrieval_accuracy
from repre.losses import nt_xent
from repre.models.heads import mlp
from repre.types import Features, FrameworkOutput, Views
from repre.utils.dist import all_gather_with_grad, rank


@dataclass(frozen=True, kw_only=True)
class SimCLRConfig(FrameworkConfig):
    """Settings of SimCLR."""

    hidden_dim: int = 2048
    """Width of the projector's hidden layers."""
    out_dim: int = 128
    """Width of the space in which views are compared."""
    layers: int = 2
    """Linear layers of the projector; the paper uses 2, its successor 3."""
    temperature: float = 0.2
    """Divides the cosines; the paper's best values are 0.1 to 0.5, higher for smaller batches."""


class SimCLR(Framework):
    """NT-Xent between the projections of two views, negatives from the global batch; no teacher."""

    def __init__(self, config: SimCLRConfig, encoder: nn.Module, *, embedding_dim: int) -> None:
        super().__init__()
        self.config = config
        self.projector = mlp(embedding_dim, config.hidden_dim, config.out_dim, layers=config.layers)

    def loss(self, student: list[Features], teacher: list[Features], views: Views, progress: float) -> FrameworkOutput:
        first, second = (self.projector(view.embedding) for view in student)  # [B, P] each
        all_first, all_second = all_gather_with_grad(first), all_gather_with_grad(second)  # [G, P] each
        t, offset = self.config.temperature, rank() * len(first)
        loss = nt_xent(first, second, all_first, all_second, temperature=t, offset=offset)
        positive = positive_mask(len(first), len(all_first), offset=offset, device=first.device).repeat(1, 2)  # [B, 2G]
        return FrameworkOutput(
            loss=loss,
            embedding=student[0].embedding.detach(),
            metrics={
                "accuracy": retrieval_accuracy(first.detach(), all_second.detach()),
                **negative_metrics(first, torch.cat([all_first, all_second]), positive, temperature=t),
            },
        )
