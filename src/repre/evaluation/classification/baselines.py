"""Features without learning. An encoder is of use only if it beats them.

B  images    C  channels    H, W  height and width of a view
"""

import torch
from torch import Tensor

from repre.data.views.render import denormalize
from repre.data.views.view_recipes import ViewsConfig
from repre.evaluation.features import Extractor
from repre.utils.image_size import shrink


def raw_pixels(*, max_side: int | None = None) -> Extractor:
    """Returns an extractor of the pixels themselves, centered per image: [B, C, H, W] -> [B, C H W].

    Args:
        max_side: images with a longer side are first shrunk to it.
    """

    def extract(images: Tensor) -> Tensor:
        pixels = (images if max_side is None else shrink(images, max_side)).flatten(1)
        return pixels - pixels.mean(1, keepdim=True)

    return extract


def color_histogram(views: ViewsConfig, *, bins: int = 8) -> Extractor:
    """Returns an extractor of the square root of the joint color histogram: [B, C, H, W] -> [B, bins ** channels].

    Args:
        views: how the images were normalized.
        bins: bins per channel; of more than three channels the first three count.
    """

    def extract(images: Tensor) -> Tensor:
        levels = (denormalize(images, views)[:, :3].clamp(0, 1) * (bins - 1e-4)).long()  # [B, C, H, W]
        cells = torch.zeros_like(levels[:, 0])
        for channel in levels.unbind(1):
            cells = cells * bins + channel
        cells = cells.flatten(1).cpu()
        counts = torch.zeros(len(images), bins ** levels.shape[1])
        counts.scatter_add_(1, cells, torch.ones(cells.shape))
        return (counts / cells.shape[1]).sqrt()

    return extract
