"""Projection and prediction heads."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repre.models.norms import BatchNorm
from repre.utils.onednn_linear import linear


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


class PrototypeHead(nn.Module):
    """DINO's head (arXiv 2104.14294, appendix C): an MLP of three layers with GELU, L2 norm, prototypes.

    [B, D] -> [B, prototypes]

    Args:
        embedding_dim: D.
        hidden_dim: width of the hidden layers.
        bottleneck_dim: width of the normalized space in front of the prototypes.
        prototypes: their number.
        norm_last_layer: prototypes of length 1; otherwise their lengths are learned.
    """

    def __init__(
        self, embedding_dim: int, *, hidden_dim: int, bottleneck_dim: int, prototypes: int, norm_last_layer: bool
    ) -> None:
        super().__init__()
        self.mlp = mlp(embedding_dim, hidden_dim, bottleneck_dim, layers=3, norm=False, activation=nn.GELU)
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        # Of a linear layer's size, as the authors': their length sets how far a step of AdamW turns them.
        self.directions = nn.Parameter(nn.Linear(bottleneck_dim, prototypes, bias=False).weight.detach())
        self.lengths = None if norm_last_layer else nn.Parameter(torch.ones(prototypes))

    def forward(self, embedding: Tensor) -> Tensor:
        return linear(self.points(embedding), self.prototypes())

    def points(self, embedding: Tensor) -> Tensor:
        """Where embeddings [B, D] lie on the sphere, [B, bottleneck]; their products with the prototypes are the logits."""
        return F.normalize(self.mlp(embedding), dim=1)

    def prototypes(self) -> Tensor:
        """[prototypes, bottleneck], as long as they are."""
        directions = F.normalize(self.directions, dim=1)
        return directions if self.lengths is None else directions * self.lengths[:, None]

    def freeze_prototypes(self) -> None:
        """Drops the gradient of the prototypes, so that the next update leaves them as they are."""
        self.directions.grad = None
        if self.lengths is not None:
            self.lengths.grad = None
