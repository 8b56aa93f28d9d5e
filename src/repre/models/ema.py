"""The exponential moving average that updates a teacher from a student."""

import torch
from torch import Tensor, nn

from repre.utils.fsdp import local_tensor


class MovingAverage:
    """Moves the tensors of a teacher toward those of a student, in few kernels.

    All parameters and floating-point buffers (running statistics) are averaged; other buffers are copied. The tensors are
    collected at the first update: going through all modules takes the host longer than the device takes for the update.

    Args:
        teacher, student: modules of the same structure, sharded in the same way or not at all.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module) -> None:
        pairs = list(zip(_tensors(teacher), _tensors(student), strict=True))
        averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self._averaged = [t for t, _ in averaged], [s for _, s in averaged]
        self._copied = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, *, momentum: float) -> None:
        """Updates ``teacher = momentum * teacher + (1 - momentum) * student`` in place; `momentum` lies in [0, 1]."""
        torch._foreach_lerp_(*self._averaged, 1.0 - momentum)
        for teacher, student in self._copied:
            teacher.copy_(student)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [local_tensor(x) for x in (*module.parameters(), *module.buffers())]
