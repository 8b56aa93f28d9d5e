"""Schedules, heads, teacher update and batch normalization in one process."""

import math

import pytest
import torch
from torch import nn

from repre.models.norms import BatchNorm
from repre.models.ema import ema_update
from repre.models.heads import mlp
from repre.utils.schedule import cosine, linear, warmup_constant, warmup_cosine


def test_schedules_meet_their_ends() -> None:
    assert cosine(0, 3, 1) == 3
    assert cosine(1, 3, 1) == pytest.approx(1)
    assert cosine(0.5, 3, 1) == pytest.approx(2)
    assert linear(0.25, 0, 4) == 1
    assert warmup_cosine(0, warmup=0.1, peak=2, end=0) == 0
    assert warmup_cosine(0.05, warmup=0.1, peak=2, end=0) == pytest.approx(1)
    assert warmup_cosine(0.1, warmup=0.1, peak=2, end=0) == pytest.approx(2)
    assert warmup_cosine(1, warmup=0.1, peak=2, end=0.5) == pytest.approx(0.5)
    assert warmup_cosine(0.4, warmup=0.0, peak=2, end=0) == pytest.approx(1 + math.cos(math.pi * 0.4))
    assert warmup_constant(0.1, warmup=0.2, start=1, end=2) == pytest.approx(1.5)
    assert warmup_constant(0.2, warmup=0.2, start=1, end=2) == 2


def test_mlp_layers_are_those_of_the_papers() -> None:
    head = mlp(8, 16, 4, layers=3, last_norm="plain", bias=False)
    kinds = [type(m).__name__ for m in head]
    assert kinds == ["Linear", "BatchNorm", "ReLU", "Linear", "BatchNorm", "ReLU", "Linear", "BatchNorm"]
    assert head[-1].weight is None
    assert all(m.bias is None for m in head if isinstance(m, nn.Linear))
    assert [type(m).__name__ for m in mlp(8, 16, 4, layers=2)] == ["Linear", "BatchNorm", "ReLU", "Linear"]


def test_ema_follows_parameters_and_buffers() -> None:
    teacher, student = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    with torch.no_grad():
        student.weight.fill_(3.0)
        student.running_mean.fill_(2.0)
        student.num_batches_tracked.fill_(7)
    ema_update(teacher, student, momentum=0.75)
    torch.testing.assert_close(teacher.weight.detach(), torch.full((3,), 0.75 + 0.25 * 3))
    torch.testing.assert_close(teacher.running_mean, torch.full((3,), 0.5))
    assert teacher.num_batches_tracked == 7
    assert torch.equal(student.weight, torch.full((3,), 3.0))


def test_batch_norm_equals_torchs_and_keeps_nothing() -> None:
    x = torch.randn(6, 4, dtype=torch.float64)
    ours, theirs = BatchNorm(4).double(), nn.BatchNorm1d(4).double()
    torch.testing.assert_close(ours(x), theirs(x))
    assert not list(ours.buffers())
    with pytest.raises(ValueError, match="at least two"):
        ours(x[:1])
