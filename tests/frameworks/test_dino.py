"""Parts of DINO that the contract test does not cover."""

import pytest
import torch
from torch import nn

from repre.frameworks import prototype_sums
from repre.frameworks.dino import DINO, DINOConfig
from repre.types import Features, Views


def losses_in_rows(monkeypatch: pytest.MonkeyPatch, rows: int) -> tuple[dict[str, torch.Tensor], int]:
    """Loss, metrics, state and gradients of 10 images, `rows` at a time; and the numbers kept for the backward pass."""
    monkeypatch.setattr(prototype_sums, "LOGITS", rows * 4 * 500)
    torch.manual_seed(0)
    config = DINOConfig(hidden_dim=16, bottleneck_dim=4, prototypes=500, norm_last_layer=False)
    framework = DINO(config, nn.Identity(), embedding_dim=8).double()
    framework.center.normal_()
    views = [torch.randn(10, 8, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    kept: dict[int, int] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes() // 8
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        output = framework.loss(
            [Features(view) for view in views],
            [Features(view.detach() + 0.1) for view in views[:2]],
            Views(images=[], targets=[], n_global=2),
            0.5,
        )
    output.loss.backward()
    gradients = {f"view {number}": view.grad for number, view in enumerate(views)}
    gradients |= {name: p.grad for name, p in framework.projector.named_parameters()}
    result = {"loss": output.loss.detach(), **output.metrics, **output.state, **gradients}
    assert all(value is not None for value in result.values())
    return result, sum(kept.values())  # type: ignore[return-value]


@pytest.mark.parametrize("rows", [1, 3, 5])
def test_prototypes_of_some_rows_at_a_time_give_the_update_of_all(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    whole, memory = losses_in_rows(monkeypatch, 10)
    pieces, less = losses_in_rows(monkeypatch, rows)
    assert whole.keys() == pieces.keys()
    for name, value in whole.items():
        torch.testing.assert_close(pieces[name], value, rtol=1e-12, atol=1e-14, msg=name)
    assert memory > 4 * 10 * 500  # the student's logits at least
    assert less < 4 * 10 * 500
