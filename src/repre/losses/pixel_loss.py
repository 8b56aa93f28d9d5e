"""The reconstruction loss on raw pixels (RePre, arXiv 2201.06857: L1 to the view, no mask; the rest are our settings)."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

PixelLossKind = Literal["l1", "l2", "smooth_l1"]


def pixel_loss(
    prediction: Tensor, target: Tensor, *, kind: PixelLossKind = "l1", patch_norm: int = 0, mask: Tensor | None = None
) -> Tensor:
    """Mean distance between predicted and true pixels.

    Slowly: the mean of ``distance(prediction[i, c, y, x], target[i, c, y, x])`` over all i, c, y, x where the mask is
    true (everywhere without a mask), with |d|, d², or |d| - 1/2 where |d| > 1 and d²/2 elsewhere.

    Args:
        prediction, target: [B, C, H, W].
        patch_norm: with p > 0 the target's p x p patches are first brought to mean 0 and variance 1 per patch, over
            pixels and channels (MAE, arXiv 2111.06377, section 4.1); H and W must be multiples of p.
        mask: bool [B, 1, H, W], the pixels that count; at least one must.
    """
    if patch_norm:
        target = normalize_patches(target, patch_norm)
    distance = {"l1": F.l1_loss, "l2": F.mse_loss, "smooth_l1": F.smooth_l1_loss}[kind]
    if mask is None:
        return distance(prediction, target)
    errors = distance(prediction, target, reduction="none") * mask
    return errors.sum() / (mask.sum() * prediction.shape[1])


def normalize_patches(images: Tensor, patch: int) -> Tensor:
    """Brings every `patch` x `patch` square to mean 0 and variance 1 over its pixels and channels: [B, C, H, W]."""
    b, c, h, w = images.shape
    squares = images.reshape(b, c, h // patch, patch, w // patch, patch)
    variance, mean = torch.var_mean(squares, dim=(1, 3, 5), keepdim=True, correction=0)
    return ((squares - mean) * (variance + 1e-6).rsqrt()).reshape(b, c, h, w)
