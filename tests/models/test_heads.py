"""Heads have the layers of the papers."""

import torch
from torch import nn

from repre.models.heads import mlp


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
