"""The start of MoCo v3's vision transformers: fixed sin-cos positions and uniform weights (Chen, Xie, He 2021, vits.py).

D  width of a token    h, w  rows and columns of the patch grid
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from repre.errors import UserError


@torch.no_grad()
def start_as_moco_v3(model: Any, *, name: str) -> None:
    """Draws the weights of a timm vision transformer as MoCo v3's authors do, and fixes its positions.

    - Linear layers: Xavier uniform, queries, keys and values as three matrices; biases 0.
    - Patch embedding: Xavier uniform over a patch's pixels and channels; bias 0. Theirs counts three channels.
    - Class token: normal with deviation 1e-6. Positions: `sincos_positions`, 0 for the class token, without gradient.

    Args:
        model: with one class token, and positions for it and the patches.
        name: of the model, for the message.

    Raises:
        UserError: the model is built otherwise, or its width is not a multiple of 4.
    """
    positions, grid = getattr(model, "pos_embed", None), getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if positions is None or grid is None or positions.shape[1] != 1 + grid[0] * grid[1] or positions.shape[2] % 4:
        raise UserError(
            f"encoder.init moco-v3 is for plain vision transformers with a class token, positions and a width that 4 "
            f"divides, which {name} is not; set encoder.init to timm"
        )
    for layer_name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            parts = 3 if "qkv" in layer_name else 1
            bound = math.sqrt(6 / (layer.in_features + layer.out_features // parts))
            nn.init.uniform_(layer.weight, -bound, bound)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    nn.init.normal_(model.cls_token, std=1e-6)
    stem = model.patch_embed.proj
    bound = math.sqrt(6 / (stem.weight[0].numel() + stem.out_channels))
    nn.init.uniform_(stem.weight, -bound, bound)
    nn.init.zeros_(stem.bias)
    positions[:, :1] = 0
    positions[:, 1:] = sincos_positions(grid[0], grid[1], positions.shape[2])
    positions.requires_grad_(False)


def sincos_positions(height: int, width: int, dim: int, *, temperature: float = 10000.0) -> Tensor:
    """Fixed positions of the cells of a grid, [h w, D], row by row; D is a multiple of 4.

    In slow loops, for the cell in row y and column x, and d from 0 to D / 4 - 1::

        frequency = temperature ** -(d / (D / 4))
        position = [sin(y * frequency), cos(y * frequency), sin(x * frequency), cos(x * frequency)]  # blocks of D / 4

    On square grids this is the authors' table, which calls the rows w.
    """
    frequencies = temperature ** -(torch.arange(dim // 4, dtype=torch.float32) / (dim // 4))
    rows, columns = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
    angles = [side.reshape(-1, 1) * frequencies for side in (rows, columns)]  # [h w, D / 4] each
    return torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], dim=1)
