"""Recipes of views, and the one call that turns a batch of decoded images into them.

A recipe names two global views, local views, what the reconstruction branch rebuilds and how pixels are normalized;
`make_views` follows it on the device. The parameters of a view are drawn in `params` and applied in `geometry` (crop and
resize) and `color`.

    B  images in the batch    C  channels    S  side of a view    K  side of the canvas
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from repre.data.views.color import apply_color, normalize
from repre.data.views.geometry import chunks, crop_resize, resample
from repre.data.views.params import Range, ViewConfig, ViewParameters, draw, draw_masks, uniforms
from repre.errors import UserError
from repre.types import Batch, Views
from repre.utils.config_checks import check_fields

__all__ = [
    "ViewConfig",
    "ViewsConfig",
    "center_view",
    "denormalize",
    "dino_views",
    "make_views",
    "moco_v3_views",
    "random_view",
    "simclr_views",
]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RANGES = {torch.uint8: (0.0, 255.0), torch.uint16: (0.0, 65535.0), torch.float32: (0.0, 1.0)}

MASK_STREAM = 2**16
"""Masks draw from streams of their own, so that masking leaves the views as they are."""


@dataclass(frozen=True)
class ViewsConfig:
    """All views of a sample. Defaults: two crops with flips, no local views, no mask."""

    size: int = 224
    """Side of the global views in pixels."""
    first: ViewConfig = field(default_factory=ViewConfig)
    """The first global view."""
    second: ViewConfig = field(default_factory=ViewConfig)
    """The second global view."""
    n_local: int = 0
    """How many local views, for frameworks with multi-crop."""
    local_size: int = 96
    """Side of the local views in pixels."""
    local: ViewConfig = field(default_factory=lambda: ViewConfig(scale=(0.05, 0.25)))
    """The local views."""
    target: Literal["view", "clean"] = "clean"
    """What is rebuilt: the view that the encoder saw, or the same crop before its colors were changed."""
    mask_ratio: float = 0.0
    """Share of the patches of the global views hidden from the encoder; 0 hides nothing."""
    mask_patch: int = 32
    """Side of a hidden patch in pixels; divides the size of the global views."""
    mean: tuple[float, ...] | None = None
    """Mean of every channel in [0, 1]; by default ImageNet's for three channels, else 0.5."""
    std: tuple[float, ...] | None = None
    """Standard deviation of every channel; by default ImageNet's for three channels, else 0.25."""
    value_range: Range | None = None
    """Pixel values that stand for 0 and 1; by default (0, 255) for uint8, (0, 65535) for uint16, (0, 1) for float32."""

    def __post_init__(self) -> None:
        check_fields(self, "views")
        for name in ("size", "local_size"):
            if getattr(self, name) < 8:
                raise UserError(f"{name}={getattr(self, name)}: a view has at least 8 pixels a side")
        size = self.size
        if self.n_local < 0:
            raise UserError(f"n_local={self.n_local}: give 0 or more")
        if not 0 <= self.mask_ratio < 1:
            raise UserError(f"mask_ratio={self.mask_ratio}: give a share from 0 to below 1")
        if self.mask_ratio > 0:
            if self.mask_patch < 1 or size % self.mask_patch:
                raise UserError(f"mask_patch={self.mask_patch} does not divide views of {size} pixels: give a divisor")
            patches = (size // self.mask_patch) ** 2
            if not 0 < round(self.mask_ratio * patches) < patches:
                raise UserError(
                    f"mask_ratio={self.mask_ratio} of {patches} patches hides none or all: lower mask_patch "
                    "or change mask_ratio"
                )
        if (self.mean is None) != (self.std is None):
            raise UserError("mean and std belong together: give both, or neither")
        if self.mean is not None and self.std is not None:
            if len(self.mean) != len(self.std):
                raise UserError(f"{len(self.mean)} means and {len(self.std)} stds: give one of each per channel")
            if min(self.std) <= 0:
                raise UserError(f"std={self.std}: give values above 0")
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            raise UserError(f"value_range={self.value_range}: give (lowest, highest)")

    def statistics(self, channels: int) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every channel, each [C, 1, 1] on the CPU."""
        mean, std = self.mean, self.std
        if mean is None or std is None:
            known = channels == 3
            mean, std = (IMAGENET_MEAN, IMAGENET_STD) if known else ((0.5,) * channels, (0.25,) * channels)
        if len(mean) != channels:
            raise UserError(f"images of {channels} channels, but {len(mean)} means and stds: give one per channel")
        return torch.tensor(mean).view(-1, 1, 1), torch.tensor(std).view(-1, 1, 1)

    def range_of(self, dtype: torch.dtype) -> Range:
        """The pixel values that stand for 0 and 1."""
        if dtype not in RANGES:
            raise UserError(f"pixels of type {dtype}: hand on uint8, uint16 or float32")
        return self.value_range or RANGES[dtype]


def moco_v3_views(size: int = 224, *, target: Literal["view", "clean"] = "clean") -> ViewsConfig:
    """MoCo v3 (2104.02057), the asymmetric pair of BYOL; also MoBY's."""
    first = ViewConfig(jitter=0.8, grayscale=0.2, blur=1.0)
    second = ViewConfig(jitter=0.8, grayscale=0.2, blur=0.1, solarize=0.2)
    return ViewsConfig(size=size, first=first, second=second, target=target)


def dino_views(
    size: int = 224, local_size: int = 96, n_local: int = 8, *, target: Literal["view", "clean"] = "clean"
) -> ViewsConfig:
    """DINO (2104.14294): the same pair from larger crops, and small local views. Resized by the bicubic filter."""
    large, small = (0.25, 1.0), (0.05, 0.25)
    first = ViewConfig(scale=large, filter="bicubic", jitter=0.8, grayscale=0.2, blur=1.0)
    second = ViewConfig(scale=large, filter="bicubic", jitter=0.8, grayscale=0.2, blur=0.1, solarize=0.2)
    local = ViewConfig(scale=small, filter="bicubic", jitter=0.8, grayscale=0.2, blur=0.5)
    return ViewsConfig(
        size=size, first=first, second=second, n_local=n_local, local_size=local_size, local=local, target=target
    )


def simclr_views(size: int = 224, strength: float = 1.0, *, target: Literal["view", "clean"] = "clean") -> ViewsConfig:
    """SimCLR (2002.05709): both views alike, color jitter of the given strength (ImageNet 1, CIFAR 0.5)."""
    strong, weak = 0.8 * strength, 0.2 * strength
    view = ViewConfig(
        jitter=0.8, brightness=strong, contrast=strong, saturation=strong, hue=weak, grayscale=0.2, blur=0.5
    )
    return ViewsConfig(size=size, first=view, second=view, target=target)


def make_views(batch: Batch, config: ViewsConfig, *, seed: int, device: torch.device | str) -> Views:
    """All views of a batch, and their targets, drawn from (seed, epoch, view, position) and made on the device.

    The pixels travel once, as they are. `target="view"` hands the views themselves on as targets, without a copy.
    """
    config.range_of(batch.pixels.dtype)
    pixels, sizes = batch.pixels.to(device, non_blocking=True), batch.sizes.cpu()
    numbers = partial(uniforms, seed=seed, epoch=batch.epoch, positions=batch.positions)
    globals_, locals_ = [config.first, config.second], [config.local] * config.n_local
    images, targets, masks = [], [], []
    for number, view in enumerate(globals_ + locals_):
        is_global = number < len(globals_)
        parameters = draw(view, numbers(stream=number), sizes)
        size = config.size if is_global else config.local_size
        image, clean = _render(pixels, parameters, view, config, size, clean=is_global and config.target == "clean")
        images.append(image)
        if is_global:
            targets.append(image if clean is None else clean)
        if is_global and config.mask_ratio > 0:
            patches = numbers(stream=MASK_STREAM + number, count=(size // config.mask_patch) ** 2)
            mask = draw_masks(patches, size=size, patch=config.mask_patch, ratio=config.mask_ratio)
            masks.append(mask.to(device, non_blocking=True))
    return Views(images=images, targets=targets, n_global=len(globals_), masks=masks or None)


def random_view(
    batch: Batch, view: ViewConfig, config: ViewsConfig, *, seed: int, device: torch.device | str
) -> Tensor:
    """One view of every image for supervised training, drawn from (seed, epoch, position): [B, C, S, S], normalized.

    Args:
        view: how it is drawn; `config` gives its size, the normalization and the range of the pixels.
    """
    pixels, sizes = batch.pixels.to(device, non_blocking=True), batch.sizes.cpu()
    numbers = uniforms(seed=seed, epoch=batch.epoch, stream=0, positions=batch.positions)
    return _render(pixels, draw(view, numbers, sizes), view, config, config.size, clean=False)[0]


def _render(
    pixels: Tensor, parameters: ViewParameters, view: ViewConfig, config: ViewsConfig, size: int, *, clean: bool
) -> tuple[Tensor, Tensor | None]:
    """One normalized view of every image, [B, C, S, S], and, if asked for, the same before its colors were changed."""
    batch, channels = pixels.shape[:2]
    mean, std = (t.to(pixels.device, non_blocking=True) for t in config.statistics(channels))
    images = torch.empty(batch, channels, size, size, device=pixels.device)
    crops = torch.empty_like(images) if clean else None
    for rows in chunks(batch, channels * size**2, pixels.device):
        part = parameters[rows]
        value_range = config.range_of(pixels.dtype)
        image = crop_resize(pixels[rows], part.boxes, part.flip, size=size, value_range=value_range, filter=view.filter)
        if crops is not None:
            crops[rows] = image
            normalize(crops[rows], mean, std)
        images[rows] = normalize(apply_color(image, part, view), mean, std)
    return images, crops


def center_view(
    pixels: Tensor, sizes: Tensor, *, size: int, config: ViewsConfig, crop_pct: float = 224 / 256
) -> Tensor:
    """The view for evaluations: short side resized to size / crop_pct (bicubic), center crop, normalized; [B, C, S, S].

    As torchvision's Resize and CenterCrop, where the pixels are; `sizes` [B, 2] is the images' height and width.
    """
    if not 0 < crop_pct <= 1:
        raise UserError(f"crop_pct={crop_pct}: give a share of the short side above 0, at most 1 (all of it)")
    sizes = sizes.cpu()
    short = sizes.amin(dim=1, keepdim=True)
    grid = round(size / crop_pct) * sizes // short
    boxes = torch.cat([torch.zeros_like(sizes), sizes], dim=1)
    offset = ((grid - size) / 2).round().long()
    flip = torch.zeros(len(sizes), dtype=torch.bool)
    value_range = config.range_of(pixels.dtype)
    images = resample(
        pixels, boxes, grid, offset, flip, size=size, value_range=value_range, filter="bicubic", rounded=False
    )
    mean, std = (t.to(pixels.device, non_blocking=True) for t in config.statistics(pixels.shape[1]))
    return normalize(images, mean, std)


def denormalize(images: Tensor, config: ViewsConfig) -> Tensor:
    """Back to [0, 1] for pictures: normalized images [B, C, S, S] -> float32 [B, C, S, S]."""
    mean, std = (t.to(images.device) for t in config.statistics(images.shape[1]))
    return (images.float() * std + mean).clamp_(0, 1)
