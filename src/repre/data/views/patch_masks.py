"""Masks that hide patches of the global views from the encoder.

B  images in the batch    S  side of a view
"""

from torch import Tensor


def hide_patches(numbers: Tensor, *, ratio: float) -> Tensor:
    """Chooses exactly round(ratio x patches) patches of every image, bool [B, 1, grid, grid].

    Args:
        numbers: random numbers in [0, 1), [B, grid x grid]; the lowest ones hide their patch.
        ratio: share of the patches to hide.
    """
    patches = numbers.shape[1]
    rank = numbers.argsort(dim=1).argsort(dim=1)
    grid = round(patches**0.5)
    return (rank < round(ratio * patches)).view(-1, 1, grid, grid)
