"""The patch loss equals its slow loops, in values and gradients; only masked patches count."""

import torch
from torch import Tensor

from repre.losses import centered_softmax, ibot_patch_loss
from tests.losses.test_losses import assert_equal, draw
from tests.oracles import losses as slow

MASKS = torch.tensor([[True, False, True, True], [False] * 4, [False, True, False, False], [True] * 4])


def masked_loss(student: Tensor, targets: Tensor, padding: int) -> Tensor:
    """The loss from all patches [images, N, P]: those that are masked, and some rows of padding."""
    weights = (1 / MASKS.sum(1, keepdim=True).double()).expand_as(MASKS)[MASKS]
    padded = [torch.cat([x[MASKS], draw(padding, x.shape[-1], seed=9).softmax(1)]) for x in (student, targets)]
    weights = torch.cat([weights, torch.zeros(padding).double()])
    return ibot_patch_loss(*padded, weights, images=len(MASKS), student_temperature=0.1)


def test_ibot_patch_loss() -> None:
    teacher, center = draw(4, 4, 6, seed=1), draw(6, seed=2)
    targets = centered_softmax(teacher, center, 0.07)
    oracle = [slow.centered(image, center, 0.07) for image in teacher]
    for padding in (0, 3):
        assert_equal(
            lambda s, padding=padding: masked_loss(s, targets, padding),
            lambda s: slow.ibot_patch(s, oracle, MASKS, 0.1),
            draw(4, 4, 6, seed=3),
        )


def test_the_teacher_gets_no_gradient() -> None:
    student, targets = draw(3, 6, seed=1).requires_grad_(), draw(3, 6, seed=2).softmax(1).requires_grad_()
    ibot_patch_loss(student, targets, torch.ones(3).double(), images=2, student_temperature=0.1).backward()
    assert targets.grad is None
