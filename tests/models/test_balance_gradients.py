"""Gradients of maps, held at a ratio to those of embeddings: against slow loops over every number."""

import math

import pytest
import torch
from torch import Tensor

from repre.models.balance_gradients import balance_gradients
from repre.types import Features
from tests import tiny


def slow_norm(gradients: list[Tensor]) -> float:
    total = 0.0
    for gradient in gradients:
        for value in gradient.flatten().tolist():
            total += value * value
    return math.sqrt(total)


def features(seed: int) -> list[Features]:
    """Two global views with maps of two levels, and a local one without."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    return [Features(draw(3, 5), maps=[draw(3, 4, 2, 2), draw(3, 5, 1, 1)] if view < 2 else []) for view in range(3)]


@pytest.mark.parametrize("ratio", [0.3, 1.0, 20.0])
def test_the_ratio_holds_and_directions_stay(ratio: float) -> None:
    views = features(0)
    out = balance_gradients(views, ratio)
    assert [len(view.maps) for view in out] == [2, 2, 0]
    assert all(torch.equal(a.embedding, b.embedding) for a, b in zip(out, views))
    pull = sum((view.embedding**2).sum() * 3 for view in out)
    push = sum((level.sin() * 0.01).sum() for view in out for level in view.maps)
    (pull + push).backward()
    embeddings = [view.embedding for view in views]
    maps = [level for view in views for level in view.maps]
    for embedding in embeddings:
        torch.testing.assert_close(embedding.grad, 6 * embedding.detach())
    before = [level.detach().cos() * 0.01 for level in maps]
    own = slow_norm([x.grad for x in embeddings if x.grad is not None])
    theirs = slow_norm([x.grad for x in maps if x.grad is not None])
    assert theirs == pytest.approx(ratio * own, rel=1e-12)
    factor = theirs / slow_norm(before)
    for level, plain in zip(maps, before):
        torch.testing.assert_close(level.grad, factor * plain)


def test_a_branch_that_asks_for_nothing_gets_nothing() -> None:
    views = features(1)
    out = balance_gradients(views, 1.0)
    (sum(view.embedding.sum() for view in out) + 0 * out[0].maps[0].sum()).backward()
    assert float(views[0].maps[0].grad.abs().max()) == 0  # type: ignore[union-attr]
    assert views[1].maps[0].grad is None


@pytest.mark.parametrize("framework", tiny.FRAMEWORKS)
@pytest.mark.parametrize("encoder", tiny.ENCODERS)
def test_the_weight_of_the_loss_no_longer_moves_the_encoder(framework: str, encoder: str) -> None:
    found = []
    for weight in (0.01, 100.0):
        model = tiny.tiny_model(framework, encoder, weight=weight, reconstruction={"balance": 2.0}).double()
        views = tiny.double(tiny.tiny_views(framework, encoder, local_share=1))
        model(views, progress=0.5).total.backward()
        found.append({name: p.grad for name, p in model.encoder.named_parameters() if p.grad is not None})
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], rtol=1e-7, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
