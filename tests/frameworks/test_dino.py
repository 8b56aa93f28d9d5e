"""Parts of DINO that the contract test does not cover."""

import pytest
import torch
from torch import nn

from repre.frameworks import dino
from repre.frameworks.dino import DINO, DINOConfig, DINOHead
from repre.types import Features


def test_prototypes_start_as_long_as_the_rows_of_a_linear_layer() -> None:
    torch.manual_seed(0)
    head = DINOHead(DINOConfig(hidden_dim=16, bottleneck_dim=64, prototypes=500), embedding_dim=8)
    linear = nn.Linear(64, 500, bias=False).weight
    assert head.directions.norm(dim=1).mean().item() == pytest.approx(linear.norm(dim=1).mean().item(), rel=0.02)
    assert head.directions.requires_grad


def test_logits_are_cosines_unless_lengths_are_learned() -> None:
    torch.manual_seed(0)
    embedding = torch.randn(6, 8)
    fixed = DINOHead(DINOConfig(hidden_dim=16, bottleneck_dim=4, prototypes=9), embedding_dim=8)
    learned = DINOHead(
        DINOConfig(hidden_dim=16, bottleneck_dim=4, prototypes=9, norm_last_layer=False), embedding_dim=8
    )
    learned.load_state_dict(fixed.state_dict(), strict=False)
    assert learned.lengths is not None
    with torch.no_grad():
        learned.lengths.copy_(torch.arange(9.0))
    assert fixed(embedding).abs().max().item() <= 1 + 1e-6
    assert torch.allclose(learned(embedding), fixed(embedding) * torch.arange(9.0))


def losses_in_rows(monkeypatch: pytest.MonkeyPatch, rows: int) -> tuple[dict[str, torch.Tensor], int]:
    """Loss, metrics, state and gradients of 10 images, `rows` at a time; and the numbers kept for the backward pass."""
    monkeypatch.setattr(dino, "LOGITS", rows * 4 * 500)
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
            [Features(view) for view in views], [Features(view.detach() + 0.1) for view in views[:2]], 0.5
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
