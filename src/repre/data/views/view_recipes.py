"""Recipes of views: settings of all views of a sample, and those of published methods.

A recipe names two global views, local views, the target of the reconstruction branch and how pixels are normalized.

    C  channels
"""

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from repre.data.views.augmentations import Range, ViewConfig
from repre.errors import UserError
from repre.utils.config_checks import check_fields
from repre.utils.image_size import Size, as_text, height_and_width, shortest

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VALUE_RANGES = {torch.uint8: (0.0, 255.0), torch.uint16: (0.0, 65535.0), torch.float32: (0.0, 1.0)}


@dataclass(frozen=True)
class MaskConfig:
    """Which patches of the global views are hidden from the student."""

    kind: Literal["none", "random", "block"] = "none"
    """`none`; `random` patches, as in SimMIM; `block`: rectangles of patches, as in BEiT, iBOT and DINOv2."""
    ratio: Range = (0.6, 0.6)
    """Share of the patches to hide, lowest and highest; drawn for every view of every image."""
    image_share: float = 1.0
    """Share of the images whose views have hidden patches."""
    patch: int | None = None
    """Side of a hidden patch in pixels; None: that of the encoder's patch tokens (for a pyramid, of its last map)."""

    def __post_init__(self) -> None:
        check_fields(self, "views.mask")
        if not 0 < self.ratio[0] <= self.ratio[1] < 1:
            raise UserError(f"views.mask.ratio={self.ratio}: give (lowest, highest), 0 < lowest <= highest < 1")
        if not 0 < self.image_share <= 1:
            raise UserError(f"views.mask.image_share={self.image_share}: give a share above 0, at most 1")


@dataclass(frozen=True)
class ViewsConfig:
    """All views of a sample. Defaults: two crops with flips, no local views, no mask."""

    size: Size = 224
    """Side of the global views in pixels, or their height and width."""
    first: ViewConfig = field(default_factory=ViewConfig)
    """The first global view."""
    second: ViewConfig = field(default_factory=ViewConfig)
    """The second global view."""
    n_global: int = 2
    """Number of global views: 2, or 1 (only the first) for a framework that compares no views."""
    n_local: int = 0
    """Number of local views, for frameworks with multi-crop."""
    local_size: Size = 96
    """Side of the local views in pixels, or their height and width."""
    local: ViewConfig = field(default_factory=lambda: ViewConfig(scale=(0.05, 0.25)))
    """The local views."""
    target: Literal["view", "clean"] = "clean"
    """Target of the reconstruction: the view that the encoder sees, or the same crop before its colors are changed."""
    mask: MaskConfig = field(default_factory=MaskConfig)
    """Patches that are hidden from the student."""
    mean: tuple[float, ...] | None = None
    """Mean of every channel in [0, 1]; by default ImageNet's for three channels, otherwise 0.5."""
    std: tuple[float, ...] | None = None
    """Standard deviation of every channel; by default ImageNet's for three channels, otherwise 0.25."""
    value_range: Range | None = None
    """Pixel values that become 0 and 1; by default (0, 255) for uint8, (0, 65535) for uint16, (0, 1) for float32."""

    def __post_init__(self) -> None:
        check_fields(self, "views")
        for name in ("size", "local_size"):
            object.__setattr__(self, name, shortest(getattr(self, name)))
            if min(height_and_width(getattr(self, name))) < 8:
                raise UserError(f"views.{name} is {as_text(getattr(self, name))}: a view has at least 8 pixels a side")
        if self.n_global not in (1, 2) or (self.n_global == 1 and self.n_local):
            raise UserError(f"n_global={self.n_global}: give 2, or 1 without local views")
        self._check_mask()
        if (self.mean is None) != (self.std is None):
            raise UserError("mean and std belong together: give both, or neither")
        if self.mean is not None and self.std is not None:
            if len(self.mean) != len(self.std):
                raise UserError(f"{len(self.mean)} means and {len(self.std)} stds: give one of each per channel")
            if min(self.std) <= 0:
                raise UserError(f"std={self.std}: give values above 0")

    def _check_mask(self) -> None:
        if self.mask.kind == "none" or self.mask.patch is None:
            return
        if any(side % self.mask.patch for side in self.shape):
            raise UserError(
                f"views.mask.patch={self.mask.patch} does not divide views of {as_text(self.size)} pixels: give a divisor "
                f"of {math.gcd(*self.shape)}"
            )
        patches = math.prod(self.mask_grid)
        low, high = (round(share * patches) for share in self.mask.ratio)
        if high < 1 or low >= patches:
            raise UserError(
                f"views.mask.ratio={self.mask.ratio} of {patches} patches hides none or all: lower views.mask.patch or "
                "change views.mask.ratio"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the global views in pixels."""
        return height_and_width(self.size)

    @property
    def local_shape(self) -> tuple[int, int]:
        """Height and width of the local views in pixels."""
        return height_and_width(self.local_size)

    @property
    def mask_grid(self) -> tuple[int, int]:
        """Rows and columns of the masks."""
        assert self.mask.patch is not None, "masks need their patch: see `repre.models.needs.fit_masks`"
        return self.shape[0] // self.mask.patch, self.shape[1] // self.mask.patch

    @property
    def views(self) -> list[ViewConfig]:
        """How every view is drawn, in its shape: global ones first, then local ones."""
        large = [of_shape(view, self.shape) for view in (self.first, self.second)[: self.n_global]]
        return large + [of_shape(self.local, self.local_shape)] * self.n_local

    def statistics(self, channels: int) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every channel, each [C, 1, 1] on the CPU.

        Raises:
            UserError: `mean` and `std` are for another number of channels.
        """
        mean, std = self.mean, self.std
        if mean is None or std is None:
            is_rgb = channels == 3
            mean, std = (IMAGENET_MEAN, IMAGENET_STD) if is_rgb else ((0.5,) * channels, (0.25,) * channels)
        if len(mean) != channels:
            raise UserError(f"images of {channels} channels, but {len(mean)} means and stds: give one per channel")
        return torch.tensor(mean).view(-1, 1, 1), torch.tensor(std).view(-1, 1, 1)

    def range_of(self, dtype: torch.dtype) -> Range:
        """The pixel values that become 0 and 1.

        Raises:
            UserError: pixels are neither uint8, uint16 nor float32.
        """
        if dtype not in VALUE_RANGES:
            raise UserError(f"pixels of type {dtype}: pass uint8, uint16 or float32")
        return self.value_range or VALUE_RANGES[dtype]


def of_shape(view: ViewConfig, shape: tuple[int, int]) -> ViewConfig:
    """How a view of (height, width) is drawn: the ratio of its crops in pixels of the image, not relative to the view."""
    height, width = shape
    if height == width:
        return view
    low, high = view.ratio
    return replace(view, ratio=(low * width / height, high * width / height))


def moco_v3_views(size: Size = 224, *, target: Literal["view", "clean"] = "clean") -> ViewsConfig:
    """Views of MoCo v3 (arXiv 2104.02057): the asymmetric pair of BYOL. MoBY uses the same."""
    first = ViewConfig(jitter=0.8, grayscale=0.2, blur=1.0)
    second = ViewConfig(jitter=0.8, grayscale=0.2, blur=0.1, solarize=0.2)
    return ViewsConfig(size=size, first=first, second=second, target=target)


def dino_views(
    size: Size = 224,
    local_size: Size = 96,
    n_local: int = 8,
    *,
    split: float = 0.25,
    target: Literal["view", "clean"] = "clean",
) -> ViewsConfig:
    """Views of DINO (arXiv 2104.14294): BYOL's pair from larger crops, and small local views, all resized bicubically.

    Args:
        split: share of the image's area that a global crop covers at least and a local one at most. The commands of DINO's
            authors take 0.4, iBOT's 0.25, DINOv2's 0.32.
    """
    large, small = (split, 1.0), (0.05, split)
    first = ViewConfig(scale=large, filter="bicubic", jitter=0.8, grayscale=0.2, blur=1.0)
    second = ViewConfig(scale=large, filter="bicubic", jitter=0.8, grayscale=0.2, blur=0.1, solarize=0.2)
    local = ViewConfig(scale=small, filter="bicubic", jitter=0.8, grayscale=0.2, blur=0.5)
    return ViewsConfig(
        size=size, first=first, second=second, n_local=n_local, local_size=local_size, local=local, target=target
    )


def simclr_views(size: Size = 224, strength: float = 1.0, *, target: Literal["view", "clean"] = "clean") -> ViewsConfig:
    """Views of SimCLR (arXiv 2002.05709): two alike, with color jitter of the given strength (ImageNet 1, CIFAR 0.5)."""
    strong, weak = 0.8 * strength, 0.2 * strength
    view = ViewConfig(
        jitter=0.8, brightness=strong, contrast=strong, saturation=strong, hue=weak, grayscale=0.2, blur=0.5
    )
    return ViewsConfig(size=size, first=view, second=view, target=target)


def simmim_views(size: Size = 224, *, target: Literal["view", "clean"] = "view") -> ViewsConfig:
    """Views of SimMIM (arXiv 2111.09886, section 4.1): one large crop, flipped; 60 % of its squares of 32 pixels are hidden.

    No color changes, so both targets are the same pixels. The second view is for monitors that compare two.
    """
    view = ViewConfig(scale=(0.67, 1.0))
    mask = MaskConfig(kind="random", ratio=(0.6, 0.6), patch=32)
    return ViewsConfig(size=size, first=view, second=view, n_global=1, target=target, mask=mask)
