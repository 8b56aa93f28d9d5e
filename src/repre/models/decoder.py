"""The reconstruction branch: a light convolutional decoder that fuses several depths of the encoder into pixels.

RePre (arXiv 2201.06857) describes a lightweight, convolution-based decoder over multi-hierarchy features. The layout is
ours: lateral 1x1 convolutions to a common width, top-down fusion, one convolution to pixels and a pixel shuffle.

Shapes:

    B  images    C  channels    H, W  height and width    C_l, H_l, W_l  map of level l    s  pixels per finest cell
"""

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from repre.errors import UserError
from repre.utils.config_checks import check_fields

GROUPS = 8
"""Groups of the normalization; per sample, so that pieces of a batch do not mix."""


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Shape of the decoder."""

    kind: Literal["conv", "linear"] = "conv"
    """`conv` fuses all levels; `linear` is one 1x1 convolution on the deepest one."""
    dim: int = 128
    """Channels of the fused maps; a multiple of 8."""
    levels: tuple[int, ...] | None = None
    """Which of the maps that the encoder gives are used, from 0; None uses all."""

    def __post_init__(self) -> None:
        check_fields(self, "decoder")
        if self.levels is not None and (not self.levels or list(self.levels) != sorted(set(self.levels))):
            raise UserError(f"decoder.levels must name each level once, in rising order, not {self.levels}")
        if self.dim < GROUPS or self.dim % GROUPS:
            raise UserError(f"decoder.dim must be a multiple of {GROUPS}, not {self.dim}")


class Decoder(nn.Module):
    """Feature maps of several depths -> pixels.

    From the deepest level up: ``fused = block(lateral(map) + resize(fused))`` on each level's grid, where a block is a
    3x3 convolution, group normalization and GELU; then a 1x1 convolution to ``channels * s * s`` and a pixel shuffle by
    the finest stride s.

    Args:
        widths, strides: channels, and pixels per cell, of the encoder's maps, as `Encoder` gives them.
        channels: of the image.
        generator: the only source of the initial weights; the global generator is left alone.
    """

    def __init__(
        self,
        config: DecoderConfig,
        *,
        widths: list[int],
        strides: list[int],
        channels: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        wanted = list(range(len(widths)) if config.levels is None else config.levels)
        if wanted[0] < 0 or wanted[-1] >= len(widths):
            raise UserError(f"decoder.levels {config.levels}: the encoder gives levels 0 to {len(widths) - 1}")
        self.levels = wanted[-1:] if config.kind == "linear" else wanted
        self.stride = strides[self.levels[0]]
        out = channels * self.stride**2
        with torch.device("meta"):  # built without drawing from the global generator
            if config.kind == "linear":
                self.laterals, self.blocks = nn.ModuleList(), nn.ModuleList()
                self.to_pixels = nn.Conv2d(widths[self.levels[0]], out, 1)
            else:
                self.laterals = nn.ModuleList(nn.Conv2d(widths[level], config.dim, 1) for level in self.levels)
                self.blocks = nn.ModuleList(_block(config.dim) for _ in self.levels)
                self.to_pixels = nn.Conv2d(config.dim, out, 1)
        self.to_empty(device="cpu")
        self._initialize(generator)

    def forward(self, maps: list[Tensor], size: tuple[int, int] | torch.Size) -> Tensor:
        """Pixels [B, C, H, W] of ``size = (H, W)`` from all of the encoder's maps, each [B, C_l, H_l, W_l]."""
        used = [maps[level] for level in self.levels]
        fused = used[-1]
        for place in reversed(range(len(self.laterals))):
            lateral = self.laterals[place](used[place])
            if place < len(self.laterals) - 1:
                lateral = lateral + _resize(fused, lateral.shape[-2:])
            fused = self.blocks[place](lateral)
        pixels = F.pixel_shuffle(self.to_pixels(_cover(fused, size, self.stride)), self.stride)
        return pixels[..., : size[0], : size[1]]  # [B, C, H, W]; a grid that was rounded up covers more than the image

    @torch.no_grad()
    def _initialize(self, generator: torch.Generator) -> None:
        """He et al. (2015) before GELU; the layer to pixels starts small, so that the first image is the mean."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_in = module.in_channels * module.kernel_size[0] * module.kernel_size[1]
                gain = 0.1 if module is self.to_pixels else 2.0**0.5
                module.weight.normal_(0.0, gain * fan_in**-0.5, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.GroupNorm):
                module.weight.fill_(1.0)
                module.bias.zero_()


def _block(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.GroupNorm(GROUPS, width), nn.GELU())


def _resize(maps: Tensor, grid: torch.Size) -> Tensor:
    return maps if maps.shape[-2:] == grid else F.interpolate(maps, size=tuple(grid), mode="nearest")


def _cover(maps: Tensor, size: tuple[int, int] | torch.Size, stride: int) -> Tensor:
    """Repeats the last row and column of a grid that was rounded down, so that its cells cover the image."""
    rows, columns = (max(0, -(-side // stride) - cells) for side, cells in zip(size, maps.shape[-2:]))
    return F.pad(maps, (0, columns, 0, rows), mode="replicate") if rows or columns else maps


@dataclass(frozen=True)
class BranchCost:
    """What the branch costs beside the encoder: parameters, and FLOPs of a forward pass of one image."""

    encoder_parameters: int
    decoder_parameters: int
    encoder_flops: int
    decoder_flops: int


@torch.no_grad()
def branch_cost(encoder: Any, decoder: Decoder | None, *, size: tuple[int, int] | torch.Size) -> BranchCost:
    """Counts parameters and forward FLOPs of encoder and decoder for one image of `size`, without computing."""
    outline = copy.deepcopy(encoder).to("meta").float().eval()
    image = torch.zeros(1, encoder.config.channels, *size, dtype=torch.float32, device="meta")
    outline(image)  # a first look at a size is a pass of its own (Encoder.check_size), which must not be counted
    with FlopCounterMode(display=False) as encoder_count:
        features = outline(image)
    flops = 0
    if decoder is not None:
        branch = copy.deepcopy(decoder).to("meta").float()
        with FlopCounterMode(display=False) as decoder_count:
            branch(features.maps, size)
        flops = decoder_count.get_total_flops()
    return BranchCost(
        encoder_parameters=sum(p.numel() for p in encoder.parameters()),
        decoder_parameters=0 if decoder is None else sum(p.numel() for p in decoder.parameters()),
        encoder_flops=encoder_count.get_total_flops(),
        decoder_flops=flops,
    )
