"""MoBY (Xie et al. 2021, arXiv 2105.04553): MoCo v2's queues with BYOL's predictor and asymmetry."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repre.errors import UserError
from repre.frameworks.base import Framework, FrameworkConfig, Teacher
from repre.frameworks.contrast_metrics import negative_metrics, retrieval_accuracy
from repre.losses import info_nce_queue
from repre.models.heads import mlp
from repre.types import Features, FrameworkOutput, Views
from repre.utils.dist import all_gather_with_grad
from repre.utils.schedule import cosine


@dataclass(frozen=True, kw_only=True)
class MoBYConfig(FrameworkConfig):
    """Settings of MoBY; the defaults are the published ones."""

    hidden_dim: int = 4096
    """Width of the hidden layer of projector and predictor."""
    out_dim: int = 256
    """Width of the space in which views are compared."""
    temperature: float = 0.2
    """Divides the cosines."""
    momentum: float = 0.99
    """Momentum of the teacher's moving average at the start; rises to 1 along a cosine."""
    queue: int = 4096
    """Keys in the queue of each view. It need not be a multiple of the batch; a batch larger than the queue leaves
    its last keys in it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.momentum <= 1:
            raise UserError(f"framework.momentum must lie in [0, 1], not {self.momentum}")


class MoBY(Framework):
    """Each view's prediction must find the teacher's key of the other view among a queue of that view's earlier keys.

    Projector and predictor are MLPs of two layers, batch normalization in the hidden one only. Drop path acts in the
    student alone. The loss is the sum over the two directions.
    """

    queues: Tensor
    end: Tensor

    def __init__(self, config: MoBYConfig, encoder: nn.Module, *, embedding_dim: int) -> None:
        super().__init__()
        self.config = config
        self.projector = mlp(embedding_dim, config.hidden_dim, config.out_dim, layers=2)
        self.predictor = mlp(config.out_dim, config.hidden_dim, config.out_dim, layers=2)
        self.teacher = Teacher(encoder, self.projector)
        self.register_buffer("queues", F.normalize(torch.randn(2, config.queue, config.out_dim), dim=2))  # [view, Q, P]
        self.register_buffer("end", torch.zeros((), dtype=torch.long))  # where the next key goes

    def teacher_features(self, views: list[Tensor]) -> list[Features]:
        return self.teacher.features(views)

    def loss(self, student: list[Features], teacher: list[Features], views: Views, progress: float) -> FrameworkOutput:
        first, second = (self.predictor(self.projector(view.embedding)) for view in student)  # [B, P] each
        keys = torch.stack([F.normalize(self.teacher.project(view), dim=1) for view in teacher])  # [view, B, P]
        t = self.config.temperature
        one = info_nce_queue(first, keys[1], self.queues[1], temperature=t)
        other = info_nce_queue(second, keys[0], self.queues[0], temperature=t)
        no_positive = first.new_zeros(1, self.config.queue).bool()
        return FrameworkOutput(
            loss=one + other,
            embedding=student[0].embedding.detach(),
            teacher_embedding=teacher[0].embedding,
            metrics={
                "accuracy": retrieval_accuracy(first.detach(), all_gather_with_grad(keys[1])),
                **negative_metrics(first, self.queues[1], no_positive, temperature=t),
            },
            state={"keys": keys},
        )

    def uses_weight_decay(self, name: str, parameter: Tensor, *, default: bool) -> bool:
        """All but biases and vectors: the authors' code finds no exemptions, so positions, tokens and the tables of relative
        positions decay."""
        return parameter.ndim > 1 and not name.endswith(".bias")

    @torch.no_grad()
    def after_step(self, encoder: nn.Module, output: FrameworkOutput, progress: float) -> None:
        self.teacher.update(encoder, self.projector, momentum=cosine(progress, self.config.momentum, 1.0))
        keys = all_gather_with_grad(output.state["keys"].transpose(0, 1)).transpose(0, 1)  # [view, G, P]
        last = keys[:, -self.config.queue :]
        start = self.end + keys.shape[1] - last.shape[1]
        slots = (start + torch.arange(last.shape[1], device=keys.device)) % self.config.queue
        self.queues[:, slots] = last.to(self.queues.dtype)
        self.end.add_(keys.shape[1]).remainder_(self.config.queue)
