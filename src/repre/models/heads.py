"""The only builder of projection and prediction heads."""

from typing import Literal

from torch import nn

from repre.models.norms import BatchNorm


def mlp(
    width: int,
    hidden: int,
    out: int,
    *,
    layers: int,
    norm: bool = True,
    last_norm: Literal["none", "affine", "plain"] = "none",
    bias: bool = True,
    activation: type[nn.Module] = nn.ReLU,
) -> nn.Sequential:
    """A multi-layer perceptron [B, width] -> [B, out].

    Args:
        layers: number of linear layers; every one but the last is followed by (norm,) activation.
        norm: batch normalization over the global batch after every hidden layer.
        last_norm: after the last layer nothing, or batch normalization with (`affine`) or without (`plain`) a learned
            scale and shift.
        bias: whether the linear layers have biases.
    """
    assert layers >= 1, "a head has at least one layer"
    modules: list[nn.Module] = []
    for _ in range(layers - 1):
        modules.append(nn.Linear(width, hidden, bias=bias))
        if norm:
            modules.append(BatchNorm(hidden))
        modules.append(activation())
        width = hidden
    modules.append(nn.Linear(width, out, bias=bias))
    if last_norm != "none":
        modules.append(BatchNorm(out, affine=last_norm == "affine"))
    return nn.Sequential(*modules)
