"""DINO (Caron et al. 2021, arXiv 2104.14294): self-distillation between views, centered and sharpened; multi-crop."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from repre.errors import UserError
from repre.frameworks.base import Framework, FrameworkConfig, Needs, Teacher
from repre.losses import centered_softmax, dino_loss
from repre.models.heads import mlp
from repre.types import Features, FrameworkOutput, Views
from repre.utils.dist import mean_over_ranks
from repre.utils.onednn_linear import linear
from repre.utils.schedule import cosine, warmup_constant
from repre.utils.step_compile import StepFunction

LOGITS = 2**27
"""Logits of one piece of the batch, over all views and prototypes: 0.5 GiB in fp32, and a few copies of it."""


@dataclass(frozen=True, kw_only=True)
class DINOConfig(FrameworkConfig):
    """Settings of DINO. What the authors count in epochs is a share of the run here, so that it follows its length."""

    hidden_dim: int = 2048
    """Width of the projector's hidden layers."""
    bottleneck_dim: int = 256
    """Width of the normalized space in front of the prototypes."""
    prototypes: int = 65536
    """Number of prototypes."""
    student_temperature: float = 0.1
    """Temperature of the student's distribution."""
    teacher_temperature_start: float = 0.04
    """Temperature of the teacher's distribution at the start."""
    teacher_temperature: float = 0.07
    """Temperature of the teacher's distribution after its warm-up."""
    teacher_temperature_warmup: float = 0.1
    """Share of the run over which the teacher's temperature rises (30 of 300 epochs in the authors' full command for ViT-S;
    their script alone keeps 0.04)."""
    momentum: float = 0.996
    """Share of the teacher that stays at each step, at the start; rises to 1 along a cosine."""
    center_momentum: float = 0.9
    """Share of the center that stays at each step."""
    freeze_last_layer: float = 0.01
    """Share of the run during which the prototypes do not learn (1 epoch in the authors' commands)."""
    norm_last_layer: bool = True
    """Prototypes of length 1. False learns their lengths, as the authors do for ViT-S, and only there."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("student_temperature", "teacher_temperature_start", "teacher_temperature"):
            if getattr(self, name) <= 0:
                raise UserError(f"framework.{name} must be above 0, not {getattr(self, name)}")
        for name in ("momentum", "center_momentum", "freeze_last_layer", "teacher_temperature_warmup"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"framework.{name} must lie in [0, 1], not {getattr(self, name)}")


class DINOHead(nn.Module):
    """MLP of three layers with GELU, L2 norm, prototypes of fixed or learned length: [B, D] -> [B, prototypes]."""

    def __init__(self, config: DINOConfig, *, embedding_dim: int) -> None:
        super().__init__()
        self.mlp = mlp(
            embedding_dim, config.hidden_dim, config.bottleneck_dim, layers=3, norm=False, activation=nn.GELU
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        # Of a linear layer's size, as the authors': their length sets how far a step of AdamW turns them.
        self.directions = nn.Parameter(nn.Linear(config.bottleneck_dim, config.prototypes, bias=False).weight.detach())
        self.lengths = None if config.norm_last_layer else nn.Parameter(torch.ones(config.prototypes))

    def forward(self, embedding: Tensor) -> Tensor:
        return linear(self.points(embedding), self.prototypes())

    def points(self, embedding: Tensor) -> Tensor:
        """Where embeddings [B, D] lie on the sphere, [B, bottleneck]; their products with the prototypes are the logits."""
        return F.normalize(self.mlp(embedding), dim=1)

    def prototypes(self) -> Tensor:
        """[prototypes, bottleneck], as long as they are."""
        directions = F.normalize(self.directions, dim=1)
        return directions if self.lengths is None else directions * self.lengths[:, None]


class DINO(Framework):
    """Every view's distribution over prototypes follows the teacher's, of each other global view."""

    needs = Needs(local_views=True)
    center: Tensor

    def __init__(self, config: DINOConfig, encoder: nn.Module, *, embedding_dim: int) -> None:
        super().__init__()
        self.config = config
        self.projector = DINOHead(config, embedding_dim=embedding_dim)
        self.teacher = Teacher(encoder, self.projector)
        self.register_buffer("center", torch.zeros(1, config.prototypes))
        self.sums_step = StepFunction(self._sums)

    def teacher_features(self, views: list[Tensor]) -> list[Features]:
        return self.teacher.features(views)

    def loss(self, student: list[Features], teacher: list[Features], views: Views, progress: float) -> FrameworkOutput:
        c = self.config
        head = self.teacher.projector
        assert isinstance(head, DINOHead)
        with torch.no_grad():
            teacher_points = _project(head, teacher)  # [G, B, bottleneck]
            teacher_prototypes = head.prototypes()
        points, prototypes = _project(self.projector, student), self.projector.prototypes()  # [V, B, bottleneck]
        temperature = torch.full(  # a tensor: a new number would be compiled anew
            (),
            warmup_constant(
                progress,
                warmup=c.teacher_temperature_warmup,
                start=c.teacher_temperature_start,
                end=c.teacher_temperature,
            ),
            dtype=points.dtype,
            device=points.device,
        )
        batch = points.shape[1]
        rows = max(1, LOGITS // (len(student) * c.prototypes))
        sums = [
            self.sums_step(points, prototypes, teacher_points, teacher_prototypes, temperature)
            if rows >= batch
            else checkpoint(
                self._sums,  # never compiled: CUDA's backward thread, which computes it again, is not in a compiled step
                points[:, start : start + rows],
                prototypes,
                teacher_points[:, start : start + rows],
                teacher_prototypes,
                temperature,
                use_reentrant=False,
                preserve_rng_state=False,
            )
            for start in range(0, batch, rows)
        ]
        loss, mean_logits, distribution, entropy = (torch.stack(parts).sum(0) / batch for parts in zip(*sums))
        entropy_of_mean = torch.special.entr(mean_over_ranks(distribution)).sum()
        return FrameworkOutput(
            loss=loss,
            embedding=student[0].embedding.detach(),
            teacher_embedding=teacher[0].embedding,
            metrics={
                "teacher_entropy": entropy,
                "prototype_entropy": entropy_of_mean,
                "prototype_information": entropy_of_mean - entropy,
            },
            state={"teacher_mean": mean_logits},  # [prototypes]
        )

    def _sums(
        self,
        points: Tensor,
        prototypes: Tensor,
        teacher_points: Tensor,
        teacher_prototypes: Tensor,
        temperature: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Sums over n images: the loss, the teacher's logits averaged over its views [prototypes], its distribution for the
        first view [prototypes], and the entropy of that distribution.

        Args:
            points, prototypes: the student's, [V, n, bottleneck] and [prototypes, bottleneck].
            teacher_points, teacher_prototypes: the teacher's, [G, n, bottleneck] and [prototypes, bottleneck].
        """
        with torch.no_grad():
            targets = linear(teacher_points, teacher_prototypes)  # [G, n, prototypes]
            distributions = centered_softmax(targets, self.center, temperature)
            sums = targets.mean(0).sum(0), distributions[0].sum(0), torch.special.entr(distributions[0]).sum()
        loss = dino_loss(
            list(linear(points, prototypes)),
            list(distributions),
            student_temperature=self.config.student_temperature,
        )
        return loss * points.shape[1], *sums

    def step_functions(self) -> list[StepFunction[..., Any]]:
        return [self.sums_step]

    def uses_weight_decay(self, name: str, parameter: Tensor, *, default: bool) -> bool:
        """All but biases and vectors, as in the authors' code: positions and tokens decay, and so do the prototypes'
        lengths, which are a matrix of one column there."""
        is_matrix = parameter.ndim > 1 and not name.endswith(".bias")
        return is_matrix or name == "framework.projector.lengths"

    def before_step(self, progress: float) -> None:
        if progress < self.config.freeze_last_layer:
            for parameter in (self.projector.directions, self.projector.lengths):
                if parameter is not None:
                    parameter.grad = None

    @torch.no_grad()
    def after_step(self, encoder: nn.Module, output: FrameworkOutput, progress: float) -> None:
        self.teacher.update(encoder, self.projector, momentum=cosine(progress, self.config.momentum, 1.0))
        self.center.lerp_(mean_over_ranks(output.state["teacher_mean"])[None], 1.0 - self.config.center_momentum)

    def export_encoder(self, encoder: nn.Module) -> nn.Module:
        """The teacher's: the authors evaluate it, and it is the better one all along (section 5.2)."""
        return self.teacher.encoder


def _project(head: DINOHead, views: list[Features]) -> Tensor:
    """Points of all views on the sphere, in one pass: [V, B, bottleneck]."""
    return head.points(torch.cat([view.embedding for view in views])).unflatten(0, (len(views), -1))
