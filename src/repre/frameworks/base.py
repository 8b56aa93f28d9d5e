"""The contract of a framework, and the teacher that most of them keep.

A framework owns its heads, its teacher and its queue or center. It never sees an optimizer, the config of a run or the
decoder; what it wants to see of an image it says in `needs`. `train_step` calls it in this order::

    teacher = framework.teacher_features(global_views)
    output = framework.loss(student, teacher, views, progress)   # student: global views first, then local views
    output.loss.backward()
    framework.before_step(progress)
    optimizer.step()
    framework.after_step(encoder, output, progress)

`loss` has no side effect, so a batch can be encoded in pieces and a step can be replayed.

`progress` is the share of the run that is done. With `optim.schedule wsd` it stays 0 until the decay; what happens at the
start of a run takes `repre.utils.schedule.since_start(progress)`.
"""

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from repre.errors import UserError
from repre.models.ema import MovingAverage
from repre.types import Features, FrameworkOutput, Views
from repre.utils.config_checks import check_fields
from repre.utils.fsdp import is_dtensor
from repre.utils.step_compile import StepFunction


@dataclass(frozen=True, kw_only=True)
class FrameworkConfig:
    """Settings of a framework; every field has a default. A subclass with checks of its own calls these first."""

    head_warmup: float = 0.0
    """Share of the run in which the encoder stays as it is while heads and decoder learn; its learning rate then rises over
    `optim.warmup_fraction`. For runs that continue from trained weights."""

    def __post_init__(self) -> None:
        check_fields(self, "framework")
        if not 0 <= self.head_warmup < 1:
            raise UserError(
                f"framework.head_warmup is a share of the run and must lie in [0, 1), not {self.head_warmup}"
            )


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a framework needs of every image."""

    global_views: int = 2
    """Global views that it compares; 1 if it compares none."""
    local_views: bool = False
    """It accepts local views beside the global ones."""
    patches: bool = False
    """`Features.patches` of the global views, of student and teacher."""
    masks: bool = False
    """Masks: the student sees the global views with patches hidden, the teacher sees all of them."""
    crops: bool = False
    """`Views.crops`: where each view was cut out of the image."""
    branch: bool = False
    """The reconstruction branch, because it has no loss of its own."""


class Framework(nn.Module, ABC):
    """What the model and the training step may call, in the order that `repre.frameworks.base` shows."""

    config: Any
    """The framework's own config."""
    needs: ClassVar[Needs] = Needs()

    def teacher_features(self, views: list[Tensor]) -> list[Features]:
        """The teacher's features of views, each [B, C, H, W], without gradient; empty without a teacher.

        The views of a batch may arrive in pieces.
        """
        return []

    @abstractmethod
    def loss(self, student: list[Features], teacher: list[Features], views: Views, progress: float) -> FrameworkOutput:
        """The loss of the local batch, averaged over its images, with what the monitors and `after_step` need.

        Args:
            student: features of every view, global views first; without maps.
            teacher: the teacher's features of the global views; empty without a teacher.
            views: what the features are of, with masks and crops if `needs` asks for them.
            progress: share of the run that is done, in [0, 1].
        """

    def step_functions(self) -> list[StepFunction[..., Any]]:
        """Parts of `loss` that are worth compiling."""
        return []

    def uses_weight_decay(self, name: str, parameter: Tensor, *, default: bool) -> bool:
        """Whether the optimizer decays a parameter of the encoder or the framework.

        Args:
            name: in the model, such as ``encoder.model.pos_embed`` or ``framework.projector.0.weight``.
            default: the project's rule: not for parameters of at most one dimension (biases, norms), position embeddings,
                tokens, and what timm exempts.
        """
        return default

    def before_step(self, progress: float) -> None:
        """Hook to edit gradients after clipping."""

    def after_step(self, encoder: nn.Module, output: FrameworkOutput, progress: float) -> None:
        """Updates teacher, queue and center, once per optimizer step."""

    def export_encoder(self, encoder: nn.Module) -> nn.Module:
        """The encoder to export after training: the student's, unless the framework returns another."""
        return encoder


class Teacher(nn.Module):
    """A moving average of encoder and projector: no gradient, no drop path, changed only by `update`."""

    def __init__(self, encoder: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.encoder: Any = copy.deepcopy(encoder)
        self.projector = copy.deepcopy(projector)
        self._averages: list[MovingAverage] = []
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "Teacher":
        """Stays in evaluation mode: the teacher drops nothing and its running statistics follow the student's."""
        return super().train(False)

    @torch.no_grad()
    def features(self, views: list[Tensor], *, patches: bool = False) -> list[Features]:
        """Embeddings, and with `patches` patch tokens, of views of one size, each [B, C, H, W]."""
        return self.encoder.encode(views, maps=False, patches=patches)

    @torch.no_grad()
    def project(self, features: Features) -> Tensor:
        """Projection of the teacher's embedding, [B, D] -> [B, P]."""
        return self.projector(features.embedding)

    def update(self, encoder: nn.Module, projector: nn.Module, *, momentum: float) -> None:
        """Moves the teacher toward the student, always the same; `momentum` is the share of the teacher that stays."""
        averages = self._averages
        if not averages:
            averages = [MovingAverage(self.encoder, encoder), MovingAverage(self.projector, projector)]
            if not any(map(is_dtensor, encoder.parameters())):  # whose parts may move
                self._averages = averages
        for average in averages:
            average.update(momentum=momentum)

    def _apply(self, fn: Any, recurse: bool = True) -> "Teacher":
        self._averages = []  # of tensors that this may replace
        return super()._apply(fn, recurse)
