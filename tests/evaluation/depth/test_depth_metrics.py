"""The loss and the metrics of depth against slow loops."""

import pytest
import torch

from repre.evaluation.depth.depth_loss import scale_invariant_loss
from repre.evaluation.depth.depth_metrics import DepthErrors
from tests.oracles import depth as oracle


def maps(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Predicted and true depth [3, 4, 5]; a third of the truth is unknown, and all of the last image's."""
    generator = torch.Generator().manual_seed(seed)
    predicted, true = (torch.rand(3, 4, 5, generator=generator) * 9 + 0.5 for _ in range(2))
    true[torch.rand(3, 4, 5, generator=generator) < 0.3] = 0
    true[2] = 0
    return predicted, true


def test_the_loss_is_that_of_slow_loops_and_ignores_unknown_pixels() -> None:
    predicted, true = maps()
    log_depth = predicted.log()[:, None].requires_grad_()
    loss = scale_invariant_loss(log_depth, true)
    assert float(loss.detach()) == pytest.approx(oracle.scale_invariant_loss(log_depth.detach(), true), rel=1e-5)
    loss.backward()
    assert log_depth.grad is not None
    assert bool(log_depth.grad.isfinite().all())
    assert bool((log_depth.grad[:, 0][true == 0] == 0).all())
    assert float(scale_invariant_loss(true.clamp_min(1).log()[:, None], true.clamp_min(1))) == 0
    assert float(scale_invariant_loss(log_depth.detach(), torch.zeros_like(true))) == 0  # nothing is known


def test_a_common_factor_costs_half_of_what_the_squared_error_does() -> None:
    _, true = maps()
    true = true[:2].clamp_min(0.5)
    shifted = scale_invariant_loss(true.log()[:, None] + 0.3, true)
    assert float(shifted) == pytest.approx(0.5 * 0.3**2, rel=1e-4)


def test_metrics_over_all_pixels_of_all_images() -> None:
    predicted, true = maps()
    errors = DepthErrors()
    for y, t in zip(predicted, true):
        errors.add(y, t)
    pairs = list(zip(predicted.flatten().tolist(), true.flatten().tolist()))
    assert errors.count == sum(t > 0 for _, t in pairs)
    assert errors.metrics() == pytest.approx(oracle.depth_metrics(pairs), rel=1e-6)


def test_a_perfect_prediction() -> None:
    _, true = maps()
    errors = DepthErrors()
    errors.add(true, true)
    assert errors.metrics() == {"delta1": 1, "delta2": 1, "delta3": 1, "rmse": 0, "abs_rel": 0}
