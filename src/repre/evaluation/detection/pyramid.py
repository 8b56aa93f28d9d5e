"""Any encoder as a detector's backbone: maps whose strides double from one to the next.

A hierarchical encoder (Swin, ConvNeXt, PVT) gets a feature pyramid network (Lin et al. 2017, arXiv 1612.03144). A plain
transformer has maps of one stride: its last map is resampled to 1/4, 1/2, 1 and 2 times that stride, the simple feature
pyramid of ViTDet (Li et al. 2022, arXiv 2203.16527, section 3).

    B  images    C  channels of a map    D  channels of all maps of the pyramid    s  pixels per cell
"""

from collections import OrderedDict
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from repre.models.encoder import Encoder
from repre.models.norms import ChannelNorm


class Backbone(nn.Module):
    """Encoder and pyramid, as torchvision's detectors take them.

    Args:
        encoder: its maps feed the pyramid.
        width: D.
        norm: whether its maps come after its final norm.
        frozen: whether the encoder stays in evaluation mode and has no gradients.

    Attributes:
        out_channels: D, for torchvision.
        strides: pixels per cell of every map, finest first.
    """

    def __init__(self, encoder: Encoder, *, width: int = 256, norm: bool = True, frozen: bool = False) -> None:
        super().__init__()
        self.encoder, self.norm, self.frozen, self.out_channels = encoder, norm, frozen, width
        plain = len(set(encoder.strides)) == 1
        self.pyramid = SimplePyramid(encoder.widths[-1], width) if plain else _TopDown(encoder.widths, width)
        stride = encoder.strides[-1]
        self.strides = [stride // 4, stride // 2, stride, 2 * stride] if plain else list(encoder.strides)
        if frozen:
            encoder.requires_grad_(False)

    def forward(self, images: Tensor) -> "OrderedDict[str, Tensor]":
        """Images [B, 3, H, W] -> maps by name "0", "1", ..., float32 [B, D, H / s, W / s]."""
        with torch.no_grad() if self.frozen else nullcontext():
            maps = self.encoder(images, norm=self.norm).maps
        return OrderedDict((str(level), output.float()) for level, output in enumerate(self.pyramid(maps)))

    def train(self, mode: bool = True) -> "Backbone":
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self


class SimplePyramid(nn.Module):
    """The last map at 1/4, 1/2, 1 and 2 times its stride, each with a 1x1 and a 3x3 convolution to D channels.

    Args:
        channels: C of the last map.
        width: D.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        half, quarter = max(1, channels // 2), max(1, channels // 4)
        up = nn.ConvTranspose2d
        self.scales = nn.ModuleList(
            [
                nn.Sequential(up(channels, half, 2, 2), ChannelNorm(half), nn.GELU(), up(half, quarter, 2, 2)),
                up(channels, half, 2, 2),
                nn.Identity(),
                nn.MaxPool2d(2, ceil_mode=True),
            ]
        )
        self.out = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(scaled_channels, width, 1, bias=False),
                ChannelNorm(width),
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                ChannelNorm(width),
            )
            for scaled_channels in (quarter, half, channels, channels)
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps of an encoder, of which the last is used -> four maps [B, D, H / s, W / s], finest first."""
        return [out(scale(maps[-1])) for scale, out in zip(self.scales, self.out)]


class _TopDown(nn.Module):
    """torchvision's feature pyramid network on a list of maps."""

    def __init__(self, channels: list[int], width: int) -> None:
        super().__init__()
        self.network = FeaturePyramidNetwork(channels, width)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        named = OrderedDict((str(level), features) for level, features in enumerate(maps))
        return list(self.network(named).values())
