"""Attention in windows, for plain transformers at high resolution (ViTDet, arXiv 2203.16527, section 3).

Most blocks attend within windows of w x w patches; the last block of every quarter of the depth attends globally. The
blocks do not change: hooks cut their input into windows, and join the windows of their output.

    B  images    P  prefix tokens (class, registers)    h, w  grid of patches    n  windows of an image    D  channels

Prefix tokens go into every window of their image, and come out as the mean over its windows. A grid that the windows do
not divide is padded with zeros, which take part in the attention, as in ViTDet. With one window as large as the grid,
attention is global.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repre.errors import UserError
from repre.models.encoder import Encoder


def use_windows(encoder: Encoder, *, window: int = 14, global_blocks: int = 4) -> list[int]:
    """Makes most blocks of a plain transformer attend within windows.

    Args:
        encoder: a plain transformer; changed in place.
        window: side of a window in patches.
        global_blocks: number of blocks that still attend globally, evenly spaced, the last block among them.

    Returns:
        The indices of the blocks that attend within windows.

    Raises:
        UserError: the model is not a plain transformer, or has rotary position embeddings.
    """
    model = encoder.model
    blocks, patch_embed = getattr(model, "blocks", None), getattr(model, "patch_embed", None)
    if not isinstance(blocks, nn.Sequential | nn.ModuleList) or patch_embed is None or len(set(encoder.strides)) > 1:
        raise UserError(f"attention windowed: {encoder.config.name} is not a plain transformer; use attention global")
    if getattr(model, "rope", None) is not None:
        raise UserError(
            f"attention windowed: {encoder.config.name} has rotary position embeddings of the whole grid; "
            "use attention global"
        )
    if window < 1 or not 1 <= global_blocks <= len(blocks):
        raise UserError(
            f"attention windowed needs a window of at least 1 patch and 1 to {len(blocks)} global blocks, "
            f"not {window} and {global_blocks}"
        )
    global_indices = {round((number + 1) * len(blocks) / global_blocks) - 1 for number in range(global_blocks)}
    hooks = _WindowHooks(window, prefix=int(getattr(model, "num_prefix_tokens", 0)))
    patch_embed.register_forward_hook(hooks.note_grid)
    windowed = [index for index in range(len(blocks)) if index not in global_indices]
    for index in windowed:
        blocks[index].register_forward_pre_hook(hooks.cut)
        blocks[index].register_forward_hook(hooks.join)
    return windowed


class _WindowHooks:
    """Hooks that share the grid of the images in the current forward pass."""

    def __init__(self, window: int, *, prefix: int) -> None:
        self.window, self.prefix, self.grid, self.images = window, prefix, (0, 0), 0

    def note_grid(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Forward hook of the patch embedding."""
        assert output.ndim == 4, "the patch embedding keeps its grid: [B, h, w, D]"
        self.images, self.grid = output.shape[0], (output.shape[1], output.shape[2])

    def cut(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Forward pre-hook of a block: tokens [B, P + h w, D] -> [B n, P + window^2, D]."""
        tokens, (h, w), side = inputs[0], self.grid, self.window
        prefix, patches = tokens[:, : self.prefix], tokens[:, self.prefix :].unflatten(1, (h, w))
        patches = F.pad(patches, (0, 0, 0, -w % side, 0, -h % side))
        rows, columns = patches.shape[1] // side, patches.shape[2] // side
        patches = patches.unflatten(2, (columns, side)).unflatten(1, (rows, side)).transpose(2, 3)
        patches = patches.flatten(3, 4).flatten(0, 2)  # [B n, window^2, D]
        prefix = prefix.repeat_interleave(rows * columns, dim=0)
        return (torch.cat([prefix, patches], dim=1), *inputs[1:])

    def join(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        """Forward hook of a block, the inverse of `cut`."""
        (h, w), side = self.grid, self.window
        rows, columns = -(-h // side), -(-w // side)
        prefix = output[:, : self.prefix].unflatten(0, (self.images, rows * columns)).mean(1)
        patches = output[:, self.prefix :].unflatten(0, (self.images, rows, columns)).unflatten(3, (side, side))
        patches = patches.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :h, :w]  # [B, h, w, D]
        return torch.cat([prefix, patches.flatten(1, 2)], dim=1)
