"""MoCo v3 (Chen, Xie, He 2021, arXiv 2104.02057): in-batch InfoNCE against a momentum teacher, with a predictor."""

from dataclasses import dataclass

from torch import Tensor, nn

from repre.errors import UserError
from repre.frameworks.base import Framework, FrameworkConfig, Teacher
from repre.frameworks.contrast_metrics import negative_metrics, positive_mask, retrieval_accuracy
from repre.losses import info_nce
from repre.models.heads import mlp
from repre.types import Features, FrameworkOutput, Views
from repre.utils.dist import all_gather_with_grad, rank
from repre.utils.schedule import cosine


@dataclass(frozen=True, kw_only=True)
class MoCoV3Config(FrameworkConfig):
    """Settings of MoCo v3; the defaults are the published ones for vision transformers."""

    hidden_dim: int = 4096
    """Width of the hidden layers of projector and predictor."""
    out_dim: int = 256
    """Width of the space in which views are compared."""
    temperature: float = 0.2
    """Divides the cosines; the loss is multiplied by twice this."""
    momentum: float = 0.99
    """Momentum of the teacher's moving average at the start; rises to 1 along a cosine."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.momentum <= 1:
            raise UserError(f"framework.momentum must lie in [0, 1], not {self.momentum}")


class MoCoV3(Framework):
    """Each view's prediction must find the teacher's key of the other view among the keys of the global batch.

    The heads' linear layers have no bias and batch normalization follows every layer, the last one without scale and
    shift (section 4.1 and the authors' code). The loss is the sum over the two directions, times 2T.
    """

    def __init__(self, config: MoCoV3Config, encoder: nn.Module, *, embedding_dim: int) -> None:
        super().__init__()
        self.config = config
        self.projector = mlp(embedding_dim, config.hidden_dim, config.out_dim, layers=3, last_norm="plain", bias=False)
        self.predictor = mlp(config.out_dim, config.hidden_dim, config.out_dim, layers=2, last_norm="plain", bias=False)
        self.teacher = Teacher(encoder, self.projector)

    def teacher_features(self, views: list[Tensor]) -> list[Features]:
        return self.teacher.features(views)

    def loss(self, student: list[Features], teacher: list[Features], views: Views, progress: float) -> FrameworkOutput:
        first, second = (self.predictor(self.projector(view.embedding)) for view in student)  # [B, P] each
        key_first, key_second = (self.teacher.project(view) for view in teacher)
        t = self.config.temperature
        offset = rank() * len(first)
        keys = all_gather_with_grad(key_second)  # [G, P]
        one = info_nce(first, keys, temperature=t, offset=offset)
        other = info_nce(second, all_gather_with_grad(key_first), temperature=t, offset=offset)
        positive = positive_mask(len(first), len(keys), offset=offset, device=keys.device)
        return FrameworkOutput(
            loss=2 * t * (one + other),
            embedding=student[0].embedding.detach(),
            teacher_embedding=teacher[0].embedding,
            metrics={
                "accuracy": retrieval_accuracy(first.detach(), keys),
                **negative_metrics(first, keys, positive, temperature=t),
            },
        )

    def uses_weight_decay(self, name: str, parameter: Tensor, *, default: bool) -> bool:
        """All parameters, as in the authors' code, which gives the optimizer one group."""
        return True

    def after_step(self, encoder: nn.Module, output: FrameworkOutput, progress: float) -> None:
        self.teacher.update(encoder, self.projector, momentum=cosine(progress, self.config.momentum, 1.0))
