"""The contract of a contrastive framework, and the teacher that most of them keep.

A framework owns its heads, its teacher and its queue or center. It never sees an optimizer, the config of a run or the
decoder. In one step the loop calls, in this order::

    teacher = [framework.teacher_features(view) for view in global_views]
    loss, diagnostics = framework.loss(student, teacher, progress)       # student: global views first, then local ones
    loss.backward();  framework.before_step(progress);  optimizer.step()
    framework.after_step(encoder, diagnostics, progress)

`loss` has no side effect, so a batch can be encoded in pieces and a step can be replayed.
"""

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from repre.models.ema import ema_update
from repre.types import Diagnostics, Features
from repre.utils.dist import mean_over_ranks, rank


@dataclass(frozen=True, kw_only=True)
class FrameworkConfig:
    """Settings of a framework; every field has a default."""


class Framework(nn.Module, ABC):
    """What the model and the loop may call. See the module's first lines for the order."""

    supports_multi_crop: bool = False
    """Whether `loss` accepts more than the two global views (multi-crop)."""

    def teacher_features(self, view: Tensor) -> Features | None:
        """What the teacher says of a view [B, C, S, S], without gradient; may be called piece by piece. None: no teacher."""
        return None

    @abstractmethod
    def loss(self, student: list[Features], teacher: list[Features], progress: float) -> tuple[Tensor, Diagnostics]:
        """The contrastive loss of the local batch (a scalar), and detached tensors for monitors and `after_step`.

        Scalars among the diagnostics are written to the metrics under their name.
        """

    def before_step(self, progress: float) -> None:
        """Last word on the gradients, after backward and clipping, before the optimizer's step."""

    def after_step(self, encoder: nn.Module, diagnostics: Diagnostics, progress: float) -> None:
        """Moves teacher, queue and center, once per optimizer step."""

    def export_encoder(self, encoder: nn.Module) -> nn.Module:
        """The encoder that is worth keeping after training: the student's, unless the framework says otherwise."""
        return encoder


class Teacher(nn.Module):
    """A slow copy of encoder and projector: no gradient, no drop path, moved only by `update`."""

    def __init__(self, encoder: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder)
        self.projector = copy.deepcopy(projector)
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "Teacher":
        """Stays in evaluation mode: the teacher drops nothing and its running statistics follow the student's."""
        return super().train(False)

    @torch.no_grad()
    def features(self, view: Tensor) -> Features:
        return self.encoder(view, maps=False)

    @torch.no_grad()
    def project(self, features: Features) -> Tensor:
        """Projection of the teacher's embedding, [B, D] -> [B, P]."""
        return self.projector(features.embedding)

    def update(self, encoder: nn.Module, projector: nn.Module, *, momentum: float) -> None:
        ema_update(self.encoder, encoder, momentum=momentum)
        ema_update(self.projector, projector, momentum=momentum)


@torch.no_grad()
def retrieval_accuracy(queries: Tensor, keys: Tensor) -> Tensor:
    """Share of this rank's queries [B, D] whose nearest key by cosine, among those of all ranks, is their own: a scalar for
    the metrics, which take its mean over ranks.

    Args:
        keys: [G, D] of all ranks, in their order.
    """
    nearest = (nn.functional.normalize(queries, dim=1) @ nn.functional.normalize(keys, dim=1).T).argmax(1)
    own = rank() * len(queries) + torch.arange(len(queries), device=queries.device)
    return (nearest == own).float().mean()


@torch.no_grad()
def negatives(queries: Tensor, keys: Tensor, own: Tensor, *, temperature: float) -> Diagnostics:
    """How many negatives the loss really compares with: exp of the mean entropy, over the queries of all ranks, of the
    softmax over a query's negatives.

    Slowly::

        for i in range(B):
            p = softmax([cos(queries[i], keys[j]) / temperature for j in range(G) if not own[i, j]])
            entropy += -sum(p * log(p)) / B
        effective_negatives = exp(entropy);  negative_share = effective_negatives / number of negatives

    Args:
        queries, keys: [B, P] and [G, P], normalized here.
        own: bool [B, G], True where a key shows the query's own image; the same number in every row.
    """
    cosines = nn.functional.normalize(queries, dim=1) @ nn.functional.normalize(keys, dim=1).T
    shares = (cosines / temperature).masked_fill(own, float("-inf")).softmax(1)  # [B, G]
    count = mean_over_ranks(torch.special.entr(shares).sum(1).mean()).exp()
    return {"effective_negatives": count, "negative_share": count / (len(keys) - own[0].sum()).clamp(min=1)}


def positive_mask(count: int, total: int, *, offset: int, device: torch.device) -> Tensor:
    """Bool [count, total]: key ``offset + i`` is that of query i."""
    return torch.arange(total, device=device) == torch.arange(offset, offset + count, device=device)[:, None]
