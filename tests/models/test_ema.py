"""The teacher update averages parameters and running statistics."""

import torch
from torch import nn

from repre.models.ema import MovingAverage


def test_ema_follows_parameters_and_buffers() -> None:
    teacher, student = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    with torch.no_grad():
        student.weight.fill_(3.0)
        student.running_mean.fill_(2.0)
        student.num_batches_tracked.fill_(7)
    average = MovingAverage(teacher, student)
    average.update(momentum=0.75)
    torch.testing.assert_close(teacher.weight.detach(), torch.full((3,), 0.75 + 0.25 * 3))
    torch.testing.assert_close(teacher.running_mean, torch.full((3,), 0.5))
    assert teacher.num_batches_tracked == 7
    assert torch.equal(student.weight, torch.full((3,), 3.0))
    with torch.no_grad():
        student.weight.fill_(5.0)
    average.update(momentum=0.0)
    assert torch.equal(teacher.weight, student.weight)
