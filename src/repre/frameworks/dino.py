"""DINO (Caron et al. 2021, arXiv 2104.14294): self-distillation between views, centred and sharpened; multi-crop."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repre.errors import UserError
from repre.frameworks.base import Framework, FrameworkConfig, Teacher
from repre.losses import dino_loss
from repre.ops.dist import mean_over_ranks
from repre.ops.mlp import mlp
from repre.ops.schedule import cosine, warmup_constant
from repre.types import Diagnostics, Features


@dataclass(frozen=True, kw_only=True)
class DINOConfig(FrameworkConfig):
    """Settings of DINO. What the authors count in epochs is a share of the run here, so that it follows its length."""

    hidden: int = 2048
    """Width of the projector's hidden layers."""
    bottleneck: int = 256
    """Width of the normalised space in front of the prototypes."""
    prototypes: int = 65536
    """Number of prototypes."""
    student_temperature: float = 0.1
    """Temperature of the student's distribution."""
    teacher_temperature_start: float = 0.04
    """Temperature of the teacher's distribution at the start."""
    teacher_temperature: float = 0.07
    """Temperature of the teacher's distribution after its warm-up."""
    teacher_temperature_warmup: float = 0.3
    """Share of the run over which the teacher's temperature rises (30 of 100 epochs in the authors' script)."""
    momentum: float = 0.996
    """Share of the teacher kept at each step, at the start; rises to 1 along a cosine."""
    centre_momentum: float = 0.9
    """Share of the centre kept at each step."""
    freeze_prototypes: float = 0.01
    """Share of the run during which the prototypes do not learn (1 of 100 epochs in the authors' script)."""
    norm_prototypes: bool = True
    """Prototypes of length 1. False learns their lengths, as the published ViT-S run does."""

    def __post_init__(self) -> None:
        for name in ("student_temperature", "teacher_temperature_start", "teacher_temperature"):
            if getattr(self, name) <= 0:
                raise UserError(f"framework.{name} must be above 0, not {getattr(self, name)}")
        for name in ("momentum", "centre_momentum", "freeze_prototypes", "teacher_temperature_warmup"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"framework.{name} must lie in [0, 1], not {getattr(self, name)}")


class DINOHead(nn.Module):
    """MLP of three layers with GELU, L2 norm, prototypes of fixed or learnt length: [B, D] -> [B, prototypes]."""

    def __init__(self, config: DINOConfig, *, width: int) -> None:
        super().__init__()
        self.mlp = mlp(width, config.hidden, config.bottleneck, layers=3, norm=False, activation=nn.GELU)
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        # Of a linear layer's size, as the authors': their length sets how far a step of AdamW turns them.
        self.directions = nn.Parameter(nn.Linear(config.bottleneck, config.prototypes, bias=False).weight.detach())
        self.lengths = None if config.norm_prototypes else nn.Parameter(torch.ones(config.prototypes))

    def forward(self, embedding: Tensor) -> Tensor:
        point = F.normalize(self.mlp(embedding), dim=1)
        logits = F.linear(point, F.normalize(self.directions, dim=1))
        return logits if self.lengths is None else logits * self.lengths


class DINO(Framework):
    """Every view's distribution over prototypes follows the teacher's, of each other global view."""

    takes_local_views = True
    centre: Tensor

    def __init__(self, config: DINOConfig, encoder: nn.Module, *, width: int) -> None:
        super().__init__()
        self.config = config
        self.projector = DINOHead(config, width=width)
        self.teacher = Teacher(encoder, self.projector)
        self.register_buffer("centre", torch.zeros(1, config.prototypes))

    def teacher_features(self, view: Tensor) -> Features:
        return self.teacher.features(view)

    def loss(self, student: list[Features], teacher: list[Features], progress: float) -> tuple[Tensor, Diagnostics]:
        c = self.config
        logits = self.projector(torch.cat([view.embedding for view in student])).chunk(len(student))  # [B, prototypes]
        targets = self.teacher.project(_joined(teacher)).chunk(len(teacher))
        temperature = warmup_constant(
            progress,
            warmup=c.teacher_temperature_warmup,
            start=c.teacher_temperature_start,
            end=c.teacher_temperature,
        )
        loss = dino_loss(
            list(logits),
            list(targets),
            self.centre,
            student_temperature=c.student_temperature,
            teacher_temperature=temperature,
        )
        distribution = ((targets[0] - self.centre) / temperature).softmax(1)  # [B, prototypes]
        each = torch.special.entr(distribution).sum(1).mean()
        of_mean = torch.special.entr(mean_over_ranks(distribution.mean(0))).sum()
        return loss, {
            "embedding": student[0].embedding.detach(),
            "teacher_mean": torch.stack(targets).mean((0, 1)),  # [prototypes]
            "teacher_embedding": teacher[0].embedding,
            "teacher_entropy": each,
            "prototype_entropy": of_mean,
            "prototype_information": of_mean - each,
        }

    def before_step(self, progress: float) -> None:
        if progress < self.config.freeze_prototypes:
            for parameter in (self.projector.directions, self.projector.lengths):
                if parameter is not None:
                    parameter.grad = None

    @torch.no_grad()
    def after_step(self, encoder: nn.Module, diagnostics: Diagnostics, progress: float) -> None:
        self.teacher.update(encoder, self.projector, momentum=cosine(progress, self.config.momentum, 1.0))
        self.centre.lerp_(mean_over_ranks(diagnostics["teacher_mean"])[None], 1.0 - self.config.centre_momentum)

    def kept_encoder(self, encoder: nn.Module) -> nn.Module:
        """The teacher's: the authors evaluate it, and it is the better one all along (section 5.2)."""
        return self.teacher.encoder


def _joined(views: list[Features]) -> Features:
    return Features(torch.cat([view.embedding for view in views]))
