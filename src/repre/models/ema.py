"""The exponential moving average that updates a teacher from a student."""

import torch
from torch import nn

from repre.utils.fsdp import local_tensor


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, *, momentum: float) -> None:
    """Updates ``teacher = momentum * teacher + (1 - momentum) * student`` in place, in few kernels.

    All parameters and floating-point buffers (running statistics) are averaged; other buffers are copied.

    Args:
        teacher, student: modules of the same structure, sharded in the same way or not at all.
        momentum: weight of the teacher, in [0, 1].
    """
    teacher_tensors = [local_tensor(x) for x in (*teacher.parameters(), *teacher.buffers())]
    student_tensors = [local_tensor(x) for x in (*student.parameters(), *student.buffers())]
    assert len(teacher_tensors) == len(student_tensors), "teacher and student differ in structure"
    pairs = list(zip(teacher_tensors, student_tensors))
    averaged = [(t, s) for t, s in pairs if t.is_floating_point()]
    torch._foreach_lerp_([t for t, _ in averaged], [s for _, s in averaged], 1.0 - momentum)
    for t, s in pairs:
        if not t.is_floating_point():
            t.copy_(s)
