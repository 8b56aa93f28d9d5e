"""Losses over prototypes, summed over a few rows at a time, so that the logits of all rows never exist at once.

V  views of the student    G  global views, which the teacher sees    n  rows: images or patches    P  prototypes
b  width of the space of the prototypes
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from repre.losses import centered_softmax, dino_loss, ibot_patch_loss, sinkhorn_center
from repre.models.heads import PrototypeHead
from repre.types import Features
from repre.utils.dist import mean_over_ranks
from repre.utils.onednn_linear import linear
from repre.utils.step_compile import StepFunction

LOGITS = 2**27
"""Logits of one piece of the rows, over all views and prototypes: 0.5 GiB in fp32, and a few copies of it."""


class Points(NamedTuple):
    """Where rows lie among the prototypes; the products are the logits.

    Attributes:
        points: unit vectors, [V, n, b] or [G, n, b].
        prototypes: [P, b].
    """

    points: Tensor
    prototypes: Tensor

    def mean_logits(self) -> Tensor:
        """Logits averaged over all views and rows, [P]."""
        return linear(self.points.mean((0, 1))[None], self.prototypes)[0]

    def sum_of_logits(self, weights: Tensor | None = None) -> Tensor:
        """Logits of the first view summed over the rows, with a weight for each [n] if they are given: [P]."""
        rows = self.points[0] if weights is None else self.points[0] * weights[:, None]
        return linear(rows.sum(0, keepdim=True), self.prototypes)[0]

    def sinkhorn_center(self, temperature: Tensor, counted: Tensor | None = None) -> Tensor:
        """`sinkhorn_center` of all rows of all views, or of those that are counted, bool [V n]: [P]."""
        rows = self.points.flatten(0, 1)
        if counted is None:
            counted = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        piece = rows_at_once(1, len(self.prototypes))
        if piece >= len(rows):
            logits = linear(rows, self.prototypes)
            return sinkhorn_center(lambda part: logits[part], counted, temperature=temperature)
        return sinkhorn_center(
            lambda part: linear(rows[part], self.prototypes), counted, temperature=temperature, piece=piece
        )


class ViewSums(NamedTuple):
    """DINO's loss of a batch, and what the monitors need.

    Attributes:
        loss: the mean over the rows.
        distribution: the teacher's for its first view, the mean over the rows, [P].
        entropy: of that distribution of each row, the mean over the rows.
    """

    loss: Tensor
    distribution: Tensor
    entropy: Tensor


def project(head: nn.Module, rows: Tensor) -> Points:
    """Embeddings or patches [n, D] among the prototypes of a `PrototypeHead`, as one view."""
    assert isinstance(head, PrototypeHead)
    return Points(head.points(rows)[None], head.prototypes())


def project_views(head: nn.Module, views: list[Features]) -> Points:
    """The embeddings of all views among the prototypes of a `PrototypeHead`, in one pass."""
    points, prototypes = project(head, torch.cat([view.embedding for view in views]))
    return Points(points[0].unflatten(0, (len(views), -1)), prototypes)


def prototype_metrics(views: ViewSums) -> dict[str, Tensor]:
    """Entropy of the teacher's distribution of an image and of their mean, and what an image tells: the difference."""
    entropy_of_mean = torch.special.entr(mean_over_ranks(views.distribution)).sum()
    return {
        "teacher_entropy": views.entropy,
        "prototype_entropy": entropy_of_mean,
        "prototype_information": entropy_of_mean - views.entropy,
    }


class PrototypeSums:
    """DINO's loss of views and iBOT's loss of patches, from points and prototypes.

    Args:
        student_temperature: divides the student's logits.
    """

    def __init__(self, *, student_temperature: float) -> None:
        self.student_temperature = student_temperature
        self.view_step = StepFunction(self._views)
        self.patch_step = StepFunction(self._patches)

    def step_functions(self) -> list[StepFunction[..., Any]]:
        """What is worth compiling."""
        return [self.view_step, self.patch_step]

    def views(self, student: Points, teacher: Points, center: Tensor, temperature: Tensor) -> ViewSums:
        """`dino_loss` of a batch, and what the monitors need of the teacher.

        Args:
            center: of the teacher's logits, [P] or [1, P].
            temperature: of the teacher.
        """
        shared = (student.prototypes, teacher.prototypes, center, temperature)
        sums = _in_pieces(self.view_step, (student.points, teacher.points), shared)
        return ViewSums(*(total / student.points.shape[1] for total in sums))

    def _views(
        self,
        points: Tensor,
        teacher_points: Tensor,
        prototypes: Tensor,
        teacher_prototypes: Tensor,
        center: Tensor,
        temperature: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sums over n images."""
        with torch.no_grad():
            targets = centered_softmax(linear(teacher_points, teacher_prototypes), center, temperature)  # [G, n, P]
            sums = targets[0].sum(0), torch.special.entr(targets[0]).sum()
        logits = linear(points, prototypes)  # [V, n, P]
        loss = dino_loss(list(logits), list(targets), student_temperature=self.student_temperature)
        return loss * points.shape[1], *sums

    def patches(
        self, student: Points, teacher: Points, center: Tensor, temperature: Tensor, weights: Tensor, *, images: int
    ) -> Tensor:
        """`ibot_patch_loss` of masked patches.

        Args:
            student, teacher: of the same patches, [1, M, b].
            center, temperature: those of `views`.
            weights: of the patches, [M].
            images: of all global views, masked or not.
        """
        shared = (student.prototypes, teacher.prototypes, center, temperature)
        (total,) = _in_pieces(self.patch_step, (student.points, teacher.points, weights[None]), shared)
        return total / images

    def _patches(
        self,
        points: Tensor,
        teacher_points: Tensor,
        weights: Tensor,
        prototypes: Tensor,
        teacher_prototypes: Tensor,
        center: Tensor,
        temperature: Tensor,
    ) -> tuple[Tensor]:
        """Sum over patches; `weights` is [1, n]."""
        with torch.no_grad():
            targets = centered_softmax(linear(teacher_points[0], teacher_prototypes), center, temperature)
        logits = linear(points[0], prototypes)  # [n, P]
        return (ibot_patch_loss(logits, targets, weights[0], images=1, student_temperature=self.student_temperature),)


def rows_at_once(views: int, prototypes: int) -> int:
    """How many rows a piece has."""
    return max(1, LOGITS // (views * prototypes))


def _in_pieces(step: StepFunction[..., Any], rows: Sequence[Tensor], shared: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Sums of what a function returns for pieces of the rows. Pieces are computed again in the backward pass.

    Args:
        step: takes `rows`, then `shared`, of which the first are the student's prototypes.
        rows: tensors [V, n, ...], which are cut along their second dimension.
        shared: tensors that every piece needs.
    """
    count, at_once = rows[0].shape[1], rows_at_once(len(rows[0]), len(shared[0]))
    if at_once >= count:
        return tuple(step(*rows, *shared))
    parts = [
        checkpoint(
            step.function,  # never compiled: CUDA's backward thread, which computes it again, is not in a compiled step
            *(x[:, start : start + at_once] for x in rows),
            *shared,
            use_reentrant=False,
            preserve_rng_state=False,
        )
        for start in range(0, count, at_once)
    ]
    return tuple(torch.stack(values).sum(0) for values in zip(*parts))
