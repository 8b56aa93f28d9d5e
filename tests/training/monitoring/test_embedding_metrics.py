"""Metrics of embeddings against slow versions and cases with known answers."""

import numpy as np
import pytest
import torch

from repre.training.monitoring.embedding_metrics import (
    alignment_and_uniformity,
    distinct_share,
    effective_rank,
    embedding_metrics,
)
from tests.oracles import metrics as slow


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_effective_rank_counts_equally_used_dimensions() -> None:
    assert effective_rank(torch.eye(7)) == pytest.approx(7, rel=1e-4)
    assert effective_rank(torch.ones(9, 5)) == pytest.approx(1, abs=1e-4)
    assert np.isnan(effective_rank(torch.tensor([[1.0, float("nan")]])))


def test_effective_rank_of_many_rows_equals_the_definition() -> None:
    many = normal(200, 6)  # reduced by a QR decomposition first
    shares = torch.linalg.svdvals(many.double())
    shares = shares / shares.sum() + 1e-7
    assert effective_rank(many) == pytest.approx(float((-(shares * shares.log()).sum()).exp()), rel=1e-9)


def test_collapse_and_the_uniform_sphere_are_the_extremes() -> None:
    collapsed = torch.ones(50, 8) + 1e-4 * normal(50, 8)
    uniform = normal(4000, 8)
    assert embedding_metrics(collapsed)["embedding_std"] < 1e-3
    assert embedding_metrics(uniform)["embedding_std"] == pytest.approx(1, abs=0.02)
    assert embedding_metrics(uniform)["rankme"] > 7.9
    assert alignment_and_uniformity(collapsed, collapsed)["uniformity"] == pytest.approx(0, abs=1e-5)
    assert alignment_and_uniformity(uniform[:500], uniform[500:1000])["uniformity"] < -2


def test_alignment_and_uniformity_equal_the_slow_loops() -> None:
    first, second = normal(7, 5), normal(7, 5, seed=1)
    metrics = alignment_and_uniformity(first, second)
    expected = slow.alignment_and_uniformity(first, second)
    assert (metrics["alignment"], metrics["uniformity"]) == pytest.approx(expected)
    assert set(alignment_and_uniformity(first[:1], second[:1])) == {"alignment"}


def test_copies_are_not_distinct() -> None:
    images = normal(6, 3, 16, 16) + normal(6, 3, 1, 1, seed=1)
    assert distinct_share(images) == 1
    images[3:] = images[0] + 0.001 * normal(3, 3, 16, 16)
    assert distinct_share(images) == 0.5
