"""The reconstruction loss on raw pixels.

RePre (arXiv 2201.06857) uses L1 without a mask and without normalized patches; the other settings are ours.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

PixelLossKind = Literal["l1", "l2", "smooth_l1"]


def pixel_loss(
    prediction: Tensor, target: Tensor, *, kind: PixelLossKind = "l1", patch_norm: int = 0, mask: Tensor | None = None
) -> Tensor:
    """Mean distance between predicted and true pixels.

    The mean of ``distance(prediction[i, c, y, x], target[i, c, y, x])`` over all i, c, y and x where the mask is true, or
    over all without a mask. With d the difference, the distance is |d| (l1), d² (l2), or d²/2 where |d| < 1 and |d| - 1/2
    elsewhere (smooth_l1).

    Args:
        prediction, target: [B, C, H, W].
        kind: the distance.
        patch_norm: side of the patches in which `normalize_patches` first normalizes the target (MAE, arXiv 2111.06377,
            section 4.1); 0 does not normalize. H and W must be multiples of it.
        mask: bool [B, 1, H, W], True for the pixels that count, at least one; None counts all.
    """
    if patch_norm:
        target = normalize_patches(target, patch_norm)
    distance = {"l1": F.l1_loss, "l2": F.mse_loss, "smooth_l1": F.smooth_l1_loss}[kind]
    if mask is None:
        return distance(prediction, target)
    errors = distance(prediction, target, reduction="none") * mask
    return errors.sum() / (mask.sum() * prediction.shape[1])


def normalize_patches(images: Tensor, patch: int) -> Tensor:
    """Gives every `patch` x `patch` square mean 0 and variance 1 over its pixels and channels; shape [B, C, H, W] stays."""
    b, c, h, w = images.shape
    patches = images.reshape(b, c, h // patch, patch, w // patch, patch)
    variance, mean = torch.var_mean(patches, dim=(1, 3, 5), keepdim=True, correction=0)
    return ((patches - mean) * (variance + 1e-6).rsqrt()).reshape(b, c, h, w)
