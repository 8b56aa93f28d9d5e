"""Normalization layers against torch's; tests/frameworks/test_two_processes.py splits a batch over processes."""

import pytest
import torch
from torch import nn

from repre.models.norms import BatchNorm, ChannelNorm


def test_batch_norm_equals_torchs_and_keeps_no_statistics() -> None:
    x = torch.randn(6, 4, dtype=torch.float64)
    ours, torchs = BatchNorm(4).double(), nn.BatchNorm1d(4).double()
    torch.testing.assert_close(ours(x), torchs(x))
    assert not list(ours.buffers())
    with pytest.raises(ValueError, match="at least two"):
        ours(x[:1])


def test_batch_norm_without_affine_has_no_parameters() -> None:
    assert not list(BatchNorm(4, affine=False).parameters())


def test_channel_norm_normalizes_each_cell_over_its_channels() -> None:
    norm = ChannelNorm(3).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, 3.0]))
        norm.bias.copy_(torch.tensor([0.1, 0.2, 0.3]))
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    y = norm(x)
    for image in range(2):
        for row in range(4):
            for column in range(5):
                cell = x[image, :, row, column]
                normalized = (cell - cell.mean()) / (cell.var(correction=0) + norm.eps).sqrt()
                torch.testing.assert_close(y[image, :, row, column], normalized * norm.weight + norm.bias)
