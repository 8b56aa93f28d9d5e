"""Masks that hide patches of the global views from the encoder.

B  images in the batch    S  side of a view
"""

from torch import Tensor


def draw_masks(numbers: Tensor, *, size: int, patch: int, ratio: float) -> Tensor:
    """Bool maps [B, 1, S, S] that hide exactly round(ratio x patches) square patches.

    Args:
        numbers: random numbers in [0, 1), [B, patches]; the lowest ones hide their patch.
        size: side S of the view.
        patch: side of a patch in pixels.
        ratio: share of the patches to hide.
    """
    grid = size // patch
    hidden = round(ratio * grid * grid)
    rank = numbers[:, : grid * grid].argsort(dim=1).argsort(dim=1)
    mask = (rank < hidden).view(-1, 1, grid, grid)
    return mask.repeat_interleave(patch, dim=2).repeat_interleave(patch, dim=3)  # [B, 1, S, S]
