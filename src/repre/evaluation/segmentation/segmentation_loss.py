"""The loss of semantic segmentation, and weights for rare classes.

B  images    K  classes    H, W  height and width
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from repre.data.labels.masks import IGNORE, MaskSource
from repre.errors import UserError


def segmentation_loss(logits: Tensor, masks: Tensor, weights: Tensor | None = None) -> Tensor:
    """Returns the cross-entropy, as (weighted) mean over the pixels that are not ignored; 0 if all are.

    Args:
        logits: [B, K, H, W].
        masks: integers [B, H, W].
        weights: of the classes, [K].
    """
    masks = masks.long()
    total = F.cross_entropy(logits, masks, weights, ignore_index=IGNORE, reduction="sum")
    labels = masks[masks != IGNORE]
    if weights is None:
        return total / max(labels.numel(), 1)
    return total / weights[labels].sum().clamp_min(1e-6)


def class_weights(source: MaskSource, images: list[int]) -> Tensor:
    """Returns median-frequency weights, float32 [K] (Eigen and Fergus 2015, arXiv 1411.4734).

    The frequency of a class is its share of the pixels of the images that show it. The weight is the median frequency
    over the frequency of the class; 1 for classes that do not occur.

    Args:
        source: images with masks.
        images: indices of the images that count.

    Raises:
        UserError: all their pixels are ignored.
    """
    classes = len(source.classes)
    class_pixels, image_pixels = np.zeros(classes), np.zeros(classes)
    for index in images:
        mask = source.load(index)[1]
        counts = np.bincount(mask[mask != IGNORE], minlength=classes)[:classes]
        class_pixels += counts
        image_pixels += (counts > 0) * counts.sum()
    occurs = class_pixels > 0
    if not occurs.any():
        raise UserError(f"every pixel of the training masks of {source.spec} is ignored; label some")
    frequency = np.where(occurs, class_pixels / np.maximum(image_pixels, 1), math.nan)
    weights = np.where(occurs, np.nanmedian(frequency) / np.where(occurs, frequency, 1), 1)
    return torch.from_numpy(weights).float()
