"""Sinkhorn-Knopp equals its slow loops, whatever rows are padded and however the rows are cut."""

import pytest
import torch

from repre.losses import centered_softmax, sinkhorn_center, sinkhorn_knopp
from tests.losses.test_losses import draw
from tests.oracles import losses as slow


@pytest.mark.parametrize("iterations", [1, 3])
def test_sinkhorn_knopp(iterations: int) -> None:
    logits = draw(7, 5, seed=1)
    oracle = torch.tensor(slow.sinkhorn_knopp(list(logits), 0.5, iterations))
    fast = sinkhorn_knopp(logits, temperature=0.5, iterations=iterations)
    torch.testing.assert_close(fast, oracle, rtol=1e-12, atol=1e-15)


def test_padded_rows_change_nothing() -> None:
    logits = draw(9, 5, seed=1)
    counted = torch.tensor([True, False, True, True, False, True, True, True, False])
    fast = sinkhorn_knopp(logits, temperature=0.2, counted=counted)[counted]
    torch.testing.assert_close(fast, sinkhorn_knopp(logits[counted], temperature=0.2), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("piece", [1, 3, 9])
def test_some_rows_at_a_time_give_the_center_of_all(piece: int) -> None:
    logits, counted = draw(7, 5, seed=1), torch.tensor([True] * 6 + [False])
    center = sinkhorn_center(lambda rows: logits[rows], counted, temperature=0.2, piece=piece)
    expected = sinkhorn_knopp(logits[:6], temperature=0.2)
    torch.testing.assert_close(centered_softmax(logits[:6], center, 0.2), expected, rtol=1e-12, atol=1e-15)


def test_prototypes_get_equal_shares() -> None:
    logits = draw(64, 4, seed=1) + torch.tensor([3.0, 0.0, 0.0, -3.0])
    targets = sinkhorn_knopp(logits, temperature=1.0, iterations=50)
    torch.testing.assert_close(targets.sum(0), torch.full((4,), 16.0, dtype=torch.float64), rtol=1e-6, atol=0)
    torch.testing.assert_close(targets.sum(1), torch.ones(64, dtype=torch.float64), rtol=1e-12, atol=0)


def test_logits_far_apart_neither_overflow_nor_vanish() -> None:
    logits = torch.tensor([[300.0, -300.0, 0.0], [250.0, -200.0, 10.0]])
    targets = sinkhorn_knopp(logits, temperature=0.04)
    assert targets.isfinite().all()
    torch.testing.assert_close(targets.sum(1), torch.ones(2))


@pytest.mark.parametrize("rows", [0, 3])
def test_without_any_row_the_center_is_zero(rows: int) -> None:
    counted = torch.zeros(rows, dtype=torch.bool)
    center = sinkhorn_center(lambda part: torch.ones(rows, 4)[part], counted, temperature=0.1)
    assert torch.equal(center, torch.zeros(4))
