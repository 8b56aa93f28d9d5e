"""The two heads of semantic segmentation: a linear one, and UPerNet (Xiao et al. 2018, arXiv 1807.10221).

Both take the maps of an encoder and return logits on the finest grid that they work on.

    B  images    K  classes    C_l, H_l, W_l  map of level l    W  channels of UPerNet's maps
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repre.models.encoder import Encoder
from repre.models.norms import ChannelNorm

POOL_SIDES = (1, 2, 3, 6)
"""Grids of the pyramid pooling (Zhao et al. 2017, arXiv 1612.01105)."""
FINEST_STRIDE = 4
"""Pixels per cell of the finest level of the pyramid that is made from the maps of a plain transformer."""
DROPOUT = 0.1
"""Dropout of whole channels before the classifier."""


def resize(maps: Tensor, grid: tuple[int, int] | torch.Size) -> Tensor:
    """Resizes maps [B, C, H, W] to [B, C, *grid], bilinear, corners not aligned."""
    return maps if maps.shape[-2:] == tuple(grid) else F.interpolate(maps, tuple(grid), mode="bilinear")


def segmentation_head(
    encoder: Encoder, levels: list[int], *, kind: Literal["linear", "upernet"], classes: int, width: int, frozen: bool
) -> nn.Module:
    """Builds a head on some of an encoder's maps.

    Args:
        levels: indices of the maps.
        kind: `LinearHead` or `UPerNet`.
        classes: K.
        width: W of UPerNet.
        frozen: whether the encoder is frozen, for `LinearHead`.
    """
    widths, strides = ([values[level] for level in levels] for values in (encoder.widths, encoder.strides))
    if kind == "linear":
        return LinearHead(widths, classes, frozen=frozen)
    return UPerNet(widths, strides, classes, width=width)


class LinearHead(nn.Module):
    """Batch normalization without affine, and a 1x1 convolution on all levels, resized to the finest grid and stacked.

    A 1x1 convolution commutes with resizing. So every level is convolved on its own grid, and the logits are resized and
    added: the same function at a fraction of the cost.

    Args:
        widths: channels of the maps.
        classes: K.
        frozen: the maps come from a frozen encoder, so their statistics are the mean over all batches; otherwise they
            change during training, and an exponential moving average follows them.
    """

    def __init__(self, widths: list[int], classes: int, *, frozen: bool) -> None:
        super().__init__()
        momentum = None if frozen else 0.1
        self.norms = nn.ModuleList(nn.BatchNorm2d(width, affine=False, momentum=momentum) for width in widths)
        convs = [nn.Conv2d(width, classes, 1, bias=False) for width in widths]
        for conv in convs:
            nn.init.normal_(conv.weight, std=0.01)
        self.convs = nn.ModuleList(convs)
        self.bias = nn.Parameter(torch.zeros(classes, 1, 1))

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps, each [B, C_l, H_l, W_l] -> logits [B, K, H, W] on the finest grid."""
        grid = max((level.shape[-2:] for level in maps), key=math.prod)
        logits = [conv(norm(level)) for norm, conv, level in zip(self.norms, self.convs, maps)]
        return torch.stack([resize(level, grid) for level in logits]).sum(0) + self.bias


class UPerNet(nn.Module):
    """Pyramid pooling on the deepest map, a top-down feature pyramid, and the fusion of all its levels.

    Maps of one stride (a plain transformer's) first become a pyramid of strides 4, 8, 16, 32, as in BEiT and MAE: at 16
    pixels per cell, transposed convolutions upsample the shallowest map by 4, and pooling halves the deepest. Every level
    is normalized over its channels first, whether or not the encoder's final norm was applied.

    Args:
        widths, strides: channels, and pixels per cell, of the encoder's maps, shallowest first.
        classes: K.
        width: W.
    """

    def __init__(self, widths: list[int], strides: list[int], classes: int, *, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(ChannelNorm(channels) for channels in widths)
        self.scales = nn.ModuleList(_scale(c, exponent) for c, exponent in zip(widths, _scale_exponents(strides)))
        self.pools = nn.ModuleList(_conv(widths[-1], width, 1) for _ in POOL_SIDES)
        self.bottleneck = _conv(widths[-1] + len(POOL_SIDES) * width, width, 3)
        self.laterals = nn.ModuleList(_conv(channels, width, 1) for channels in widths[:-1])
        self.smooths = nn.ModuleList(_conv(width, width, 3) for _ in widths[:-1])
        self.fuse = _conv(len(widths) * width, width, 3)
        self.dropout = nn.Dropout2d(DROPOUT)
        self.classify = nn.Conv2d(width, classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.normal_(self.classify.weight, std=0.01)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps, each [B, C_l, H_l, W_l] -> logits [B, K, H, W] on the finest grid."""
        levels = [scale(norm(level)) for norm, scale, level in zip(self.norms, self.scales, maps)]
        deepest = levels[-1]
        pooled = [pool(F.adaptive_avg_pool2d(deepest, side)) for side, pool in zip(POOL_SIDES, self.pools)]
        pooled = [resize(context, deepest.shape[-2:]) for context in pooled]
        pyramid = [self.bottleneck(torch.cat([deepest, *pooled], dim=1))]
        for lateral, level in zip(reversed(self.laterals), reversed(levels[:-1])):
            finer = lateral(level)
            pyramid.insert(0, finer + resize(pyramid[0], finer.shape[-2:]))
        pyramid = [*(smooth(level) for smooth, level in zip(self.smooths, pyramid)), pyramid[-1]]
        finest = pyramid[0].shape[-2:]
        fused = self.fuse(torch.cat([resize(level, finest) for level in pyramid], dim=1))
        return self.classify(self.dropout(fused))


def _scale_exponents(strides: list[int]) -> list[int]:
    """The power of two by which every level is upsampled: 0 if the encoder is a pyramid."""
    if len(strides) == 1 or len(set(strides)) > 1:
        return [0] * len(strides)
    finest = round(math.log2(strides[0] / FINEST_STRIDE))
    return [finest - level for level in range(len(strides))]


def _scale(channels: int, exponent: int) -> nn.Module:
    """Upsamples a map by ``2 ** exponent``, or pools it if the exponent is negative."""
    if exponent < 0:
        return _MaxPool(2**-exponent)
    layers: list[nn.Module] = []
    for number in range(exponent):
        if number:
            layers += [nn.BatchNorm2d(channels), nn.GELU()]
        layers.append(nn.ConvTranspose2d(channels, channels, 2, stride=2))
    return nn.Sequential(*layers)


class _MaxPool(nn.Module):
    """Max pooling over squares of `factor` cells, or of fewer if the map is smaller."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, [min(self.factor, side) for side in x.shape[-2:]])


def _conv(channels: int, width: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True))
