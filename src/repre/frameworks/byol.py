"""BYOL (Grill et al. 2020, arXiv 2006.07733): predicts the teacher's projection of the other view, without negatives."""

from dataclasses import dataclass

from torch import Tensor, nn

from repre.errors import UserError
from repre.frameworks.base import Framework, FrameworkConfig, Teacher
from repre.frameworks.contrast_metrics import retrieval_accuracy
from repre.losses import cosine_regression
from repre.models.heads import mlp
from repre.types import Features, FrameworkOutput, Views
from repre.utils.dist import all_gather_with_grad
from repre.utils.schedule import cosine


@dataclass(frozen=True, kw_only=True)
class BYOLConfig(FrameworkConfig):
    """Settings of BYOL; the defaults are the published ones."""

    hidden_dim: int = 4096
    """Width of the hidden layers of projector and predictor."""
    out_dim: int = 256
    """Width of the space in which views are compared."""
    momentum: float = 0.996
    """Momentum of the teacher's moving average at the start; rises to 1 along a cosine."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.momentum <= 1:
            raise UserError(f"framework.momentum must lie in [0, 1], not {self.momentum}")


class BYOL(Framework):
    """Pulls each view's prediction to the teacher's projection of the other view and sums both directions.

    Projector and predictor are MLPs of two layers with batch normalization in the hidden one (section 3.3).
    """

    def __init__(self, config: BYOLConfig, encoder: nn.Module, *, embedding_dim: int) -> None:
        super().__init__()
        self.config = config
        self.projector = mlp(embedding_dim, config.hidden_dim, config.out_dim, layers=2)
        self.predictor = mlp(config.out_dim, config.hidden_dim, config.out_dim, layers=2)
        self.teacher = Teacher(encoder, self.projector)

    def teacher_features(self, views: list[Tensor]) -> list[Features]:
        return self.teacher.features(views)

    def loss(self, student: list[Features], teacher: list[Features], views: Views, progress: float) -> FrameworkOutput:
        first, second = (self.predictor(self.projector(view.embedding)) for view in student)  # [B, P] each
        target_first, target_second = (self.teacher.project(view) for view in teacher)
        loss = cosine_regression(first, target_second) + cosine_regression(second, target_first)
        return FrameworkOutput(
            loss=loss,
            embedding=student[0].embedding.detach(),
            teacher_embedding=teacher[0].embedding,
            metrics={"accuracy": retrieval_accuracy(first.detach(), all_gather_with_grad(target_second))},
        )

    def after_step(self, encoder: nn.Module, output: FrameworkOutput, progress: float) -> None:
        self.teacher.update(encoder, self.projector, momentum=cosine(progress, self.config.momentum, 1.0))
