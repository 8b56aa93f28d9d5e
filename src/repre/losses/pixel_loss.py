"""The reconstruction loss on raw pixels.

RePre (arXiv 2201.06857) uses L1 without a mask and without normalized patches; the other settings are ours.

    B  images    C  channels    H, W  height and width    s  side of a cell in pixels    h, w  rows and columns of cells
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

PixelLossKind = Literal["l1", "l2", "smooth_l1"]


def pixel_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    stride: int = 1,
    kind: PixelLossKind = "l1",
    patch_norm: int = 0,
    mask: Tensor | None = None,
) -> Tensor:
    """Mean distance between predicted and true pixels.

    With P the prediction after a pixel shuffle by `stride`: for every image i the mean of ``distance(P[i, c, y, x],
    target[i, c, y, x])`` over all c, y and x inside the image where the mask is true, or over all without a mask; then the
    mean over the images, in which an image without any such pixel counts as 0. With d the difference, the
    distance is `|d|` (l1), `d²` (l2), or `d²/2` where `|d| < 1` and `|d| - 1/2` elsewhere (smooth_l1).

    The prediction is not shuffled: the target is read in the order of the prediction instead, which the compiler fuses with
    distance and mean, so no image of the prediction is ever written.

    Args:
        prediction: [B, C s s, h, w], as `torch.nn.functional.pixel_shuffle` takes it; its cells cover at least the image.
        target: [B, C, H, W].
        stride: s.
        kind: the distance.
        patch_norm: side of the patches in which `normalize_patches` first normalizes the target (MAE, arXiv 2111.06377,
            section 4.1); 0 does not normalize. H and W must be multiples of it.
        mask: bool [B, 1, H, W], True for the pixels that count; None counts all.

    Returns:
        A scalar, float32, or float64 for predictions in float64.
    """
    if patch_norm:
        target = normalize_patches(target, patch_norm)
    below, right = (stride * cells - side for cells, side in zip(prediction.shape[-2:], target.shape[-2:]))
    if below or right:  # a grid that was rounded up: the pixels beyond the image do not count
        mask = torch.ones_like(target[:, :1], dtype=torch.bool) if mask is None else mask
        mask, target = (F.pad(x, (0, right, 0, below)) for x in (mask, target))
    distance = {"l1": F.l1_loss, "l2": F.mse_loss, "smooth_l1": F.smooth_l1_loss}[kind]
    prediction, truth = (_at_least_float32(x) for x in (prediction, F.pixel_unshuffle(target, stride)))
    if mask is None:
        return distance(prediction, truth)
    counted = F.pixel_unshuffle(mask.float(), stride).to(prediction.dtype)  # [B, s s, h, w]
    errors = distance(prediction, truth, reduction="none").unflatten(1, (-1, stride**2)) * counted[:, None]
    pixels_of_image = mask.sum((1, 2, 3)).clamp(min=1) * target.shape[1]  # [B]
    return (errors.flatten(1).sum(1) / pixels_of_image).mean()


def normalize_patches(images: Tensor, patch: int) -> Tensor:
    """Gives every `patch` x `patch` square mean 0 and variance 1 over its pixels and channels; shape [B, C, H, W] stays."""
    b, c, h, w = images.shape
    patches = _at_least_float32(images).reshape(b, c, h // patch, patch, w // patch, patch)
    variance, mean = torch.var_mean(patches, dim=(1, 3, 5), keepdim=True, correction=0)
    return ((patches - mean) * (variance + 1e-6).rsqrt()).reshape(b, c, h, w)


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
