"""DINO (Caron et al. 2021, arXiv 2104.14294): self-distillation between views, centered and sharpened; multi-crop."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from repre.errors import UserError
from repre.frameworks.base import Framework, FrameworkConfig, Needs, Teacher
from repre.frameworks.prototype_sums import PrototypeSums, project_views, prototype_metrics
from repre.models.heads import PrototypeHead
from repre.types import Features, FrameworkOutput, Views
from repre.utils.dist import mean_over_ranks
from repre.utils.schedule import cosine, since_start, warmup_constant
from repre.utils.step_compile import StepFunction


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
    their script's default is a constant 0.04)."""
    momentum: float = 0.996
    """Momentum of the teacher's moving average at the start; rises to 1 along a cosine."""
    center_momentum: float = 0.9
    """Momentum of the center's moving average."""
    freeze_last_layer: float = 0.01
    """Share of the run during which the prototypes do not learn (1 epoch in the authors' commands)."""
    norm_last_layer: bool = True
    """Fix the prototypes' lengths at 1. False learns them, as the authors do for ViT-S only."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("momentum", "center_momentum", "freeze_last_layer", "teacher_temperature_warmup"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"framework.{name} must lie in [0, 1], not {getattr(self, name)}")

    def temperature_at(self, progress: float, *, end: float, like: Tensor) -> Tensor:
        """The teacher's temperature, which rises to `end`; a tensor, because a new number would be compiled anew."""
        warmup, start = self.teacher_temperature_warmup, self.teacher_temperature_start
        value = warmup_constant(progress, warmup=warmup, start=start, end=end)
        return torch.full((), value, dtype=like.dtype, device=like.device)


class DINO(Framework):
    """Every view's distribution over prototypes follows the teacher's, of each other global view."""

    needs = Needs(local_views=True)
    center: Tensor

    def __init__(self, config: DINOConfig, encoder: nn.Module, *, embedding_dim: int) -> None:
        super().__init__()
        self.config = config
        self.projector = PrototypeHead(
            embedding_dim,
            hidden_dim=config.hidden_dim,
            bottleneck_dim=config.bottleneck_dim,
            prototypes=config.prototypes,
            norm_last_layer=config.norm_last_layer,
        )
        self.teacher = Teacher(encoder, self.projector)
        self.register_buffer("center", torch.zeros(1, config.prototypes))
        self.sums = PrototypeSums(student_temperature=config.student_temperature)

    def teacher_features(self, views: list[Tensor]) -> list[Features]:
        return self.teacher.features(views)

    def loss(self, student: list[Features], teacher: list[Features], views: Views, progress: float) -> FrameworkOutput:
        c = self.config
        with torch.no_grad():
            targets = project_views(self.teacher.projector, teacher)
            mean_logits = targets.mean_logits()
        temperature = c.temperature_at(progress, end=c.teacher_temperature, like=targets.points)
        of_views = self.sums.views(project_views(self.projector, student), targets, self.center, temperature)
        return FrameworkOutput(
            loss=of_views.loss,
            embedding=student[0].embedding.detach(),
            teacher_embedding=teacher[0].embedding,
            metrics=prototype_metrics(of_views),
            state={"teacher_mean": mean_logits},  # [prototypes]
        )

    def step_functions(self) -> list[StepFunction[..., Any]]:
        return [self.sums.view_step]

    def uses_weight_decay(self, name: str, parameter: Tensor, *, default: bool) -> bool:
        """All but biases and vectors, as in the authors' code: positions and tokens decay, and so do the prototypes'
        lengths, which are a matrix of one column there."""
        is_matrix = parameter.ndim > 1 and not name.endswith(".bias")
        return is_matrix or name == "framework.projector.lengths"

    def before_step(self, progress: float) -> None:
        if since_start(progress) < self.config.freeze_last_layer:
            self.projector.freeze_prototypes()

    @torch.no_grad()
    def after_step(self, encoder: nn.Module, output: FrameworkOutput, progress: float) -> None:
        self.teacher.update(encoder, self.projector, momentum=cosine(progress, self.config.momentum, 1.0))
        self.center.lerp_(mean_over_ranks(output.state["teacher_mean"])[None], 1.0 - self.config.center_momentum)

    def export_encoder(self, encoder: nn.Module) -> nn.Module:
        """The teacher's: the authors evaluate it, and it is the better one all along (section 5.2)."""
        return self.teacher.encoder
