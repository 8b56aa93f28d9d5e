"""Heads have the layers of the papers."""

import pytest
import torch
from torch import nn

from repre.models.heads import PrototypeHead, mlp


def test_mlp_layers_are_those_of_the_papers() -> None:
    head = mlp(8, 16, 4, layers=3, last_norm="plain", bias=False)
    kinds = [type(layer).__name__ for layer in head]
    assert kinds == ["Linear", "BatchNorm", "ReLU", "Linear", "BatchNorm", "ReLU", "Linear", "BatchNorm"]
    assert head[-1].weight is None
    assert all(layer.bias is None for layer in head if isinstance(layer, nn.Linear))
    assert [type(layer).__name__ for layer in mlp(8, 16, 4, layers=2)] == ["Linear", "BatchNorm", "ReLU", "Linear"]
    plain = mlp(8, 16, 4, layers=2, norm=False, activation=nn.GELU, last_norm="affine")
    assert [type(layer).__name__ for layer in plain] == ["Linear", "GELU", "Linear", "BatchNorm"]
    assert plain[-1].weight is not None


def test_mlp_maps_the_embedding_to_the_output() -> None:
    assert mlp(8, 16, 4, layers=3)(torch.randn(5, 8)).shape == (5, 4)
    assert mlp(8, 16, 4, layers=1)(torch.randn(5, 8)).shape == (5, 4)


def prototype_head(*, bottleneck_dim: int, prototypes: int, norm_last_layer: bool = True) -> PrototypeHead:
    return PrototypeHead(
        8, hidden_dim=16, bottleneck_dim=bottleneck_dim, prototypes=prototypes, norm_last_layer=norm_last_layer
    )


def test_prototypes_start_as_long_as_the_rows_of_a_linear_layer() -> None:
    torch.manual_seed(0)
    head = prototype_head(bottleneck_dim=64, prototypes=500)
    linear = nn.Linear(64, 500, bias=False).weight
    assert head.directions.norm(dim=1).mean().item() == pytest.approx(linear.norm(dim=1).mean().item(), rel=0.02)
    assert head.directions.requires_grad


def test_logits_are_cosines_unless_lengths_are_learned() -> None:
    torch.manual_seed(0)
    embedding = torch.randn(6, 8)
    fixed = prototype_head(bottleneck_dim=4, prototypes=9)
    learned = prototype_head(bottleneck_dim=4, prototypes=9, norm_last_layer=False)
    learned.load_state_dict(fixed.state_dict(), strict=False)
    assert learned.lengths is not None
    with torch.no_grad():
        learned.lengths.copy_(torch.arange(9.0))
    assert fixed(embedding).abs().max().item() <= 1 + 1e-6
    assert torch.allclose(learned(embedding), fixed(embedding) * torch.arange(9.0))
