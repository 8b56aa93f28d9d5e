"""Any encoder as a detector's backbone: four or more maps, each half as fine as the one before.

A pyramid (Swin, ConvNeXt, PVT) gets a feature pyramid network (Lin et al. 2017, arXiv 1612.03144). A plain transformer has
one grid: its last map is resampled to 1/4, 1/2, 1 and 2 times its stride (ViTDet, Li et al. 2022, arXiv 2203.16527,
section 3: the simple feature pyramid). Which one is asked of the strides.

    B  images    C  channels of a map    D  channels of all maps of the pyramid    s  pixels per cell
"""

from collections import OrderedDict
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from repre.models.encoder import Encoder


class Backbone(nn.Module):
    """Encoder and pyramid, as torchvision's detectors take them.

    Args:
        encoder: its maps feed the pyramid.
        width: D.
        frozen: the encoder stays in evaluation mode and has no gradient.

    Attributes:
        out_channels: D, for torchvision.
        strides: pixels per cell of every map, finest first.
    """

    def __init__(self, encoder: Encoder, *, width: int = 256, frozen: bool = False) -> None:
        super().__init__()
        self.encoder, self.frozen, self.out_channels = encoder, frozen, width
        plain = len(set(encoder.strides)) == 1
        self.pyramid = SimplePyramid(encoder.widths[-1], width) if plain else _TopDown(encoder.widths, width)
        stride = encoder.strides[-1]
        self.strides = [stride // 4, stride // 2, stride, 2 * stride] if plain else list(encoder.strides)
        if frozen:
            encoder.requires_grad_(False)

    def forward(self, images: Tensor) -> "OrderedDict[str, Tensor]":
        """Maps of images [B, 3, H, W] by name "0", "1", ...: float32 [B, D, H / s, W / s]."""
        with torch.no_grad() if self.frozen else nullcontext():
            maps = self.encoder(images).maps
        return OrderedDict((str(place), found.float()) for place, found in enumerate(self.pyramid(maps)))

    def train(self, mode: bool = True) -> "Backbone":
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self


class SimplePyramid(nn.Module):
    """The last map at 1/4, 1/2, 1 and 2 times its stride, each to D channels by a 1x1 and a 3x3 convolution."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        half, quarter = max(1, channels // 2), max(1, channels // 4)
        up = nn.ConvTranspose2d
        self.scales = nn.ModuleList(
            [
                nn.Sequential(up(channels, half, 2, 2), _Norm(half), nn.GELU(), up(half, quarter, 2, 2)),
                up(channels, half, 2, 2),
                nn.Identity(),
                nn.MaxPool2d(2, ceil_mode=True),
            ]
        )
        self.out = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(found, width, 1, bias=False),
                _Norm(width),
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                _Norm(width),
            )
            for found in (quarter, half, channels, channels)
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return [out(scale(maps[-1])) for scale, out in zip(self.scales, self.out)]


class _TopDown(nn.Module):
    def __init__(self, channels: list[int], width: int) -> None:
        super().__init__()
        self.network = FeaturePyramidNetwork(channels, width)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        named = OrderedDict((str(place), found) for place, found in enumerate(maps))
        return list(self.network(named).values())


class _Norm(nn.LayerNorm):
    """Layer normalization over the channels of [B, C, H, W]."""

    def forward(self, maps: Tensor) -> Tensor:
        return super().forward(maps.movedim(1, -1)).movedim(-1, 1)
