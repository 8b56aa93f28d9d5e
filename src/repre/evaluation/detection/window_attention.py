"""Attention in windows, for plain transformers at high resolution (ViTDet, arXiv 2203.16527, section 3).

Most blocks see windows of w x w patches; the last block of every quarter of the depth sees everything. The blocks stay
as they are: what goes into one is cut into windows before it and put together after it.

    B  images    P  prefix tokens (class, registers)    h, w  grid of patches    n  windows of an image    D  channels

Prefix tokens go into every window of their image, and come out as the mean over its windows. A grid that the windows do
not divide is padded with zeros, which are attended to, as in ViTDet. One window of the grid's size is global attention.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repre.errors import UserError
from repre.models.encoder import Encoder


def use_windows(encoder: Encoder, *, window: int = 14, global_blocks: int = 4) -> list[int]:
    """Lets most blocks of a plain transformer attend within windows; gives the numbers of the blocks that do.

    Args:
        window: side of a window in patches.
        global_blocks: how many blocks, evenly spaced and the last among them, still see everything.

    Raises:
        UserError: the model has no such blocks, or its positions live inside the attention.
    """
    model = encoder.model
    blocks, stem = getattr(model, "blocks", None), getattr(model, "patch_embed", None)
    if not isinstance(blocks, nn.Sequential | nn.ModuleList) or stem is None or len(set(encoder.strides)) > 1:
        raise UserError(f"attention windowed: {encoder.config.name} is no plain transformer; use attention global")
    if getattr(model, "rope", None) is not None:
        raise UserError(
            f"attention windowed: {encoder.config.name} turns its tokens by their place in the whole grid; "
            "use attention global"
        )
    if window < 1 or not 1 <= global_blocks <= len(blocks):
        raise UserError(f"attention windowed: window {window} and {global_blocks} global blocks of {len(blocks)}")
    kept = {round((number + 1) * len(blocks) / global_blocks) - 1 for number in range(global_blocks)}
    state = _Windows(window, prefix=int(getattr(model, "num_prefix_tokens", 0)))
    stem.register_forward_hook(state.note_grid)
    windowed = [number for number in range(len(blocks)) if number not in kept]
    for number in windowed:
        blocks[number].register_forward_pre_hook(state.cut)
        blocks[number].register_forward_hook(state.join)
    return windowed


class _Windows:
    """Knows the grid of the images that are on their way."""

    def __init__(self, window: int, *, prefix: int) -> None:
        self.window, self.prefix, self.grid, self.images = window, prefix, (0, 0), 0

    def note_grid(self, stem: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        assert made.ndim == 4, "a patch embedding that keeps its grid: [B, h, w, D]"
        self.images, self.grid = made.shape[0], (made.shape[1], made.shape[2])

    def cut(self, block: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        """Tokens [B, P + h w, D] -> [B n, P + window^2, D]."""
        tokens, (h, w), side = given[0], self.grid, self.window
        prefix, patches = tokens[:, : self.prefix], tokens[:, self.prefix :].unflatten(1, (h, w))
        patches = F.pad(patches, (0, 0, 0, -w % side, 0, -h % side))
        rows, columns = patches.shape[1] // side, patches.shape[2] // side
        patches = patches.unflatten(2, (columns, side)).unflatten(1, (rows, side)).transpose(2, 3)
        patches = patches.flatten(3, 4).flatten(0, 2)  # [B n, window^2, D]
        prefix = prefix.repeat_interleave(rows * columns, dim=0)
        return (torch.cat([prefix, patches], dim=1), *given[1:])

    def join(self, block: nn.Module, given: tuple[Any, ...], made: Tensor) -> Tensor:
        """The way back."""
        (h, w), side = self.grid, self.window
        rows, columns = -(-h // side), -(-w // side)
        prefix = made[:, : self.prefix].unflatten(0, (self.images, rows * columns)).mean(1)
        patches = made[:, self.prefix :].unflatten(0, (self.images, rows, columns)).unflatten(3, (side, side))
        patches = patches.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :h, :w]  # [B, h, w, D]
        return torch.cat([prefix, patches.flatten(1, 2)], dim=1)
