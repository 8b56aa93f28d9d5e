"""The reconstruction branch: a light convolutional decoder that fuses several depths of the encoder into pixels.

RePre (arXiv 2201.06857) describes a lightweight, convolution-based decoder over multi-hierarchy features. The layout is
ours: lateral 1x1 convolutions to a common dimension, top-down fusion, one convolution to pixels and a pixel shuffle.

Shapes:

    B  images    C  channels    H, W  height and width    C_l, H_l, W_l  map of level l    s  pixels per finest cell
"""

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from repre.errors import UserError
from repre.utils.config_checks import check_fields
from repre.utils.onednn_linear import linear

GROUPS = 8
"""Groups of the normalization. It works per sample, so that micro-batches give the same result as the whole batch."""


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Shape of the decoder."""

    kind: Literal["conv", "linear"] = "conv"
    """`conv` fuses all levels; `linear` is one 1x1 convolution on the deepest level."""
    dim: int = 128
    """Channels of the fused maps; a multiple of 8."""
    levels: tuple[int, ...] | None = None
    """Indices of the encoder's maps to use, from 0, in rising order; None: all."""

    def __post_init__(self) -> None:
        check_fields(self, "decoder")
        if self.levels is not None and (not self.levels or list(self.levels) != sorted(set(self.levels))):
            raise UserError(f"decoder.levels must name each level once, in rising order, not {self.levels}")
        if not GROUPS <= self.dim <= 1 << 16 or self.dim % GROUPS:
            raise UserError(f"decoder.dim must be a multiple of {GROUPS} up to {1 << 16}, not {self.dim}")


class Decoder(nn.Module):
    """Reconstructs pixels from feature maps of several depths.

    From the deepest level up, on the grid of each level: ``fused = block(lateral(map) + resize(fused))``. A block is a 3x3
    convolution, group normalization and GELU. Then a 1x1 convolution to ``channels * s * s`` and a pixel shuffle by the
    stride s of the finest level.

    Args:
        config: shape of the decoder.
        widths, strides: channels and pixels per cell of the encoder's maps; see `Encoder`.
        channels: channels of the image.
        generator: draws the initial weights; the global generator is not used.

    Raises:
        UserError: the encoder has no such level.
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
        levels = list(range(len(widths)) if config.levels is None else config.levels)
        if levels[0] < 0 or levels[-1] >= len(widths):
            raise UserError(f"decoder.levels {config.levels}: the encoder gives levels 0 to {len(widths) - 1}")
        self.levels = levels[-1:] if config.kind == "linear" else levels
        self.stride = strides[self.levels[0]]
        out_channels = channels * self.stride**2
        with torch.device("meta"):  # draws nothing from the global generator
            if config.kind == "linear":
                self.laterals, self.blocks = nn.ModuleList(), nn.ModuleList()
                self.to_pixels = Pointwise(widths[self.levels[0]], out_channels, 1)
            else:
                self.laterals = nn.ModuleList(Pointwise(widths[level], config.dim, 1) for level in self.levels)
                self.blocks = nn.ModuleList(_block(config.dim) for _ in self.levels)
                self.to_pixels = Pointwise(config.dim, out_channels, 1)
        self.to_empty(device="cpu")
        self._initialize(generator)

    def forward(self, maps: list[Tensor], size: tuple[int, int] | torch.Size) -> Tensor:
        """Reconstructs pixels [B, C, H, W] of ``size = (H, W)`` from all maps of the encoder, each [B, C_l, H_l, W_l]."""
        pixels = F.pixel_shuffle(self.patches(maps, size), self.stride)
        return pixels[..., : size[0], : size[1]]  # a grid that was rounded up covers more than the image

    def patches(self, maps: list[Tensor], size: tuple[int, int] | torch.Size) -> Tensor:
        """The same pixels before they are shuffled into place: [B, C s s, h, w], whose h x w cells cover the image."""
        used = [maps[level] for level in self.levels]
        fused = used[-1]
        for index in reversed(range(len(self.laterals))):
            lateral = self.laterals[index](used[index])
            if index < len(self.laterals) - 1:
                lateral = lateral + _resize(fused, lateral.shape[-2:])
            fused = self.blocks[index](lateral)
        patches: Tensor = self.to_pixels(_extend(fused, size, self.stride))
        return patches

    @torch.no_grad()
    def _initialize(self, generator: torch.Generator) -> None:
        """Initializes as He et al. 2015 (arXiv 1502.01852). The last layer starts small, so that the first output is near
        the mean image."""
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


class Pointwise(nn.Conv2d):
    """A 1x1 convolution, computed as a linear layer over the channels.

    Maps come with the channels last in memory, where that is one product; cuDNN copies gradients to another layout first.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, D, h, w], with the channels last in memory."""
        return linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


def _block(dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(dim, dim, 3, padding=1, bias=False), nn.GroupNorm(GROUPS, dim), nn.GELU())


def _resize(maps: Tensor, grid: torch.Size) -> Tensor:
    return maps if maps.shape[-2:] == grid else F.interpolate(maps, size=tuple(grid), mode="nearest")


def _extend(maps: Tensor, size: tuple[int, int] | torch.Size, stride: int) -> Tensor:
    """Repeats the last row and column of a grid that was rounded down, so that its cells cover the image."""
    rows, columns = (max(0, -(-side // stride) - cells) for side, cells in zip(size, maps.shape[-2:]))
    return F.pad(maps, (0, columns, 0, rows), mode="replicate") if rows or columns else maps


@dataclass(frozen=True)
class BranchCost:
    """Cost of the decoder next to that of the encoder."""

    encoder_parameters: int
    """Number of the encoder's parameters."""
    decoder_parameters: int
    """Number of the decoder's parameters."""
    encoder_flops: int
    """FLOPs of the encoder's forward pass of one image."""
    decoder_flops: int
    """FLOPs of the decoder's forward pass of one image."""


@torch.no_grad()
def branch_cost(encoder: Any, decoder: Decoder | None, *, size: tuple[int, int] | torch.Size) -> BranchCost:
    """Counts parameters and forward FLOPs of encoder and decoder for one image, on the meta device.

    Args:
        encoder: an `Encoder`.
        decoder: its decoder; None costs nothing.
        size: height and width of the image.
    """
    meta_encoder = copy.deepcopy(encoder).to("meta").float().eval()
    image = torch.zeros(1, encoder.config.channels, *size, dtype=torch.float32, device="meta")
    meta_encoder(image)  # the first pass of a size measures it in a pass of its own, which must not be counted
    with FlopCounterMode(display=False) as encoder_counter:
        features = meta_encoder(image)
    decoder_flops = 0
    if decoder is not None:
        meta_decoder = copy.deepcopy(decoder).to("meta").float()
        with FlopCounterMode(display=False) as decoder_counter:
            meta_decoder(features.maps, size)
        decoder_flops = decoder_counter.get_total_flops()
    return BranchCost(
        encoder_parameters=sum(p.numel() for p in encoder.parameters()),
        decoder_parameters=0 if decoder is None else sum(p.numel() for p in decoder.parameters()),
        encoder_flops=encoder_counter.get_total_flops(),
        decoder_flops=decoder_flops,
    )


def step_flops(cost: BranchCost, views: Any, *, teachers: int) -> float:
    """FLOPs of encoder and decoder in a training step, for each image: forward, and twice that backward.

    Args:
        cost: of a global view.
        views: numbers and sizes of the views, a `ViewsConfig`. A local view counts by its area.
        teachers: encoders that only run forward, on the global views.
    """
    n_global = views.n_global
    local = views.n_local * math.prod(views.local_shape) / math.prod(views.shape)
    student = cost.encoder_flops * (n_global + local) + cost.decoder_flops * n_global
    return 3.0 * student + teachers * n_global * cost.encoder_flops
