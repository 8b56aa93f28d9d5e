"""The exponential moving average that makes a teacher of a student."""

import torch
from torch import nn

from repre.utils.fsdp import local_tensor


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, *, momentum: float) -> None:
    """``teacher <- momentum * teacher + (1 - momentum) * student`` over all parameters and buffers, in few kernels.

    Floating-point buffers (running statistics) are averaged like parameters; integer ones are copied.

    Args:
        teacher, student: modules of the same structure, split over processes in the same way or not at all.
        momentum: share of the teacher that stays, in [0, 1].
    """
    mine = [local_tensor(x) for x in (*teacher.parameters(), *teacher.buffers())]
    theirs = [local_tensor(x) for x in (*student.parameters(), *student.buffers())]
    assert len(mine) == len(theirs), "teacher and student differ in structure"
    averaged = [(t, s) for t, s in zip(mine, theirs) if t.is_floating_point()]
    torch._foreach_lerp_([t for t, _ in averaged], [s for _, s in averaged], 1.0 - momentum)
    for t, s in zip(mine, theirs):
        if not t.is_floating_point():
            t.copy_(s)
