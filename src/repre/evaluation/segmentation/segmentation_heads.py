"""The two heads of semantic segmentation: a linear one, and UPerNet (Xiao et al. 2018, arXiv 1807.10221).

Both take the maps of an encoder and give logits on the finest grid that they work on.

    B  images    K  classes    C_l, H_l, W_l  map of level l    W  width of UPerNet's maps
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

POOLS = (1, 2, 3, 6)
"""Grids of the pyramid pooling (Zhao et al. 2017, arXiv 1612.01105)."""
FINEST = 4
"""Pixels per cell of the finest level of the pyramid that a flat transformer's maps become."""
DROPOUT = 0.1
"""Of whole channels before the classifier."""


def resize(maps: Tensor, grid: tuple[int, int] | torch.Size) -> Tensor:
    """Bilinear, corners not aligned; [B, C, H, W] -> [B, C, *grid]."""
    return maps if maps.shape[-2:] == tuple(grid) else F.interpolate(maps, tuple(grid), mode="bilinear")


class LinearHead(nn.Module):
    """Batch normalization without affine, and a 1x1 convolution on all levels, resized to the finest grid and stacked.

    A 1x1 convolution commutes with resizing, so every level is convolved on its own grid and its logits are resized and
    added: the same function at a fraction of the cost.

    Args:
        widths: channels of the maps.
        frozen: the maps come from a frozen encoder, so the mean over all batches seen estimates their statistics;
            otherwise they drift, and a running mean follows them.
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
        grid = max((level.shape[-2:] for level in maps), key=math.prod)
        logits = [conv(norm(level)) for norm, conv, level in zip(self.norms, self.convs, maps)]
        return torch.stack([resize(part, grid) for part in logits]).sum(0) + self.bias  # [B, K, H, W]


class UPerNet(nn.Module):
    """Pyramid pooling on the deepest map, a top-down feature pyramid, and the fusion of all its levels.

    Maps of one stride (a flat transformer's) first become a pyramid of strides 4, 8, 16, 32, as in BEiT and MAE: at 16
    pixels per cell the shallowest is enlarged by 4 with transposed convolutions, the deepest halved by pooling. Every
    level is normalized over its channels, since the encoder's maps come before its last norm.

    Args:
        widths, strides: channels, and pixels per cell, of the encoder's maps, shallowest first.
        width: W.
    """

    def __init__(self, widths: list[int], strides: list[int], classes: int, *, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(_ChannelNorm(channels) for channels in widths)
        self.scales = nn.ModuleList(_scale(c, power) for c, power in zip(widths, _powers(strides)))
        self.pools = nn.ModuleList(_conv(widths[-1], width, 1) for _ in POOLS)
        self.bottleneck = _conv(widths[-1] + len(POOLS) * width, width, 3)
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
        pooled = [pool(F.adaptive_avg_pool2d(deepest, side)) for side, pool in zip(POOLS, self.pools)]
        pooled = [resize(part, deepest.shape[-2:]) for part in pooled]
        pyramid = [self.bottleneck(torch.cat([deepest, *pooled], dim=1))]
        for lateral, level in zip(reversed(self.laterals), reversed(levels[:-1])):
            side = lateral(level)
            pyramid.insert(0, side + resize(pyramid[0], side.shape[-2:]))
        pyramid = [*(smooth(level) for smooth, level in zip(self.smooths, pyramid)), pyramid[-1]]
        finest = pyramid[0].shape[-2:]
        fused = self.fuse(torch.cat([resize(level, finest) for level in pyramid], dim=1))
        return self.classify(self.dropout(fused))


def _powers(strides: list[int]) -> list[int]:
    """By which power of two every level is enlarged: none where the encoder is a pyramid."""
    if len(strides) == 1 or len(set(strides)) > 1:
        return [0] * len(strides)
    finest = round(math.log2(strides[0] / FINEST))
    return [finest - place for place in range(len(strides))]


def _scale(channels: int, power: int) -> nn.Module:
    if power < 0:
        return _Shrink(2**-power)
    steps: list[nn.Module] = []
    for place in range(power):
        if place:
            steps += [nn.BatchNorm2d(channels), nn.GELU()]
        steps.append(nn.ConvTranspose2d(channels, channels, 2, stride=2))
    return nn.Sequential(*steps)


class _ChannelNorm(nn.LayerNorm):
    """Layer normalization of every cell over its channels; [B, C, H, W] stays."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _Shrink(nn.Module):
    """Maximum over squares of `factor` cells, of fewer where the map is smaller than that."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, [min(self.factor, side) for side in x.shape[-2:]])


def _conv(channels: int, width: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True))
