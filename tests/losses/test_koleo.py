"""KoLeo equals its slow loops, in values and gradients, on any share of the global batch."""

import pytest
import torch

from repre.losses import koleo
from tests.losses.test_losses import assert_equal, draw
from tests.oracles import losses as slow


@pytest.mark.parametrize("rows", [slice(0, 6), slice(2, 4)])
def test_koleo_with_gradient_through_the_gathered_embeddings(rows: slice) -> None:
    assert_equal(
        lambda x: koleo(x[rows], x, offset=rows.start), lambda x: slow.koleo(x[rows], x, rows.start), draw(6, 5, seed=1)
    )


def test_shares_of_the_global_batch_add_up() -> None:
    everyone = draw(6, 5, seed=1)
    parts = [koleo(everyone[start : start + 2], everyone, offset=start) for start in (0, 2, 4)]
    torch.testing.assert_close(torch.stack(parts).mean(), koleo(everyone, everyone), rtol=1e-14, atol=0)


def test_equal_embeddings_have_a_finite_loss_and_gradient() -> None:
    embeddings = draw(1, 5, seed=1).float().repeat(4, 1).requires_grad_()
    loss = koleo(embeddings, embeddings)
    loss.backward()
    assert loss.isfinite()
    assert embeddings.grad is not None
    assert embeddings.grad.isfinite().all()


def test_spreading_embeddings_lowers_the_loss() -> None:
    close = torch.tensor([[1.0, 0.0], [1.0, 0.01], [1.0, -0.01]])
    spread = torch.tensor([[1.0, 0.0], [-0.5, 0.87], [-0.5, -0.87]])
    assert koleo(spread, spread) < 0 < koleo(close, close)
