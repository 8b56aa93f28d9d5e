"""Builds projection and prediction heads."""

from typing import Literal

from torch import nn

from repre.models.norms import BatchNorm


def mlp(
    in_dim: int,
    hidden_dim: int,
    out_dim: int,
    *,
    layers: int,
    norm: bool = True,
    last_norm: Literal["none", "affine", "plain"] = "none",
    bias: bool = True,
    activation: type[nn.Module] = nn.ReLU,
) -> nn.Sequential:
    """Builds a multi-layer perceptron [B, in_dim] -> [B, out_dim].

    Args:
        in_dim, hidden_dim, out_dim: dimensions of the input, the hidden layers and the output.
        layers: number of linear layers, at least one; an activation follows each but the last.
        norm: batch normalization over the global batch before each activation.
        last_norm: batch normalization after the last layer: none, with (`affine`) or without (`plain`) a learned scale and
            shift.
        bias: whether the linear layers have biases.
        activation: class of the activations.
    """
    assert layers >= 1, "a head has at least one layer"
    modules: list[nn.Module] = []
    for _ in range(layers - 1):
        modules.append(nn.Linear(in_dim, hidden_dim, bias=bias))
        if norm:
            modules.append(BatchNorm(hidden_dim))
        modules.append(activation())
        in_dim = hidden_dim
    modules.append(nn.Linear(in_dim, out_dim, bias=bias))
    if last_norm != "none":
        modules.append(BatchNorm(out_dim, affine=last_norm == "affine"))
    return nn.Sequential(*modules)
