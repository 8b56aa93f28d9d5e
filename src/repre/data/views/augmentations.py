"""Random augmentations of one view: their settings, and the draw of their parameters on the CPU, without the pixels.

The parameters are a function of (seed, epoch, view, position). Every operation draws from its stream of `random_streams`.
They are applied, deterministically and on the device of the pixels, by `geometry` (crop and flip) and then `color`.

To add one: settings in `ViewConfig`, a stream in `Operation` and its count in `NUMBERS`, a parameter in `ViewParameters`
that `draw` sets, and its formula in `color.apply_color`.

    B  images in the batch    N  random numbers of a sample
"""

import math
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from repre.data.views.random_streams import Operation, RandomStreams
from repre.errors import UserError
from repre.utils.config_checks import check_fields

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
ATTEMPTS = 10
"""Crop boxes drawn before the largest central one is taken, as in torchvision's RandomResizedCrop."""

NUMBERS = {
    Operation.CROP: 2 * ATTEMPTS + 2,  # area and ratio of every attempt, top, left
    Operation.FLIP: 1,
    Operation.JITTER: 9,  # whether, order of the four changes, their factors
    Operation.GRAYSCALE: 1,
    Operation.BLUR: 2,  # whether, sigma
    Operation.SOLARIZE: 1,
}
"""Random numbers that every operation draws for a sample."""

Range = tuple[float, float]
Filter = Literal["bilinear", "bicubic"]


@dataclass(frozen=True)
class ViewConfig:
    """How a view is drawn. Defaults: crop and flip only."""

    scale: Range = (0.08, 1.0)
    """Share of the image's area that the crop covers, lowest and highest."""
    ratio: Range = (3 / 4, 4 / 3)
    """Width / height of the crop, lowest and highest."""
    filter: Filter = "bilinear"
    """Filter of the antialiased resize: torchvision's default, or bicubic as in DINO."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    jitter: float = 0.0
    """Probability of the color jitter: the four changes below, in random order."""
    brightness: float = 0.4
    """Factor within [1 - b, 1 + b]."""
    contrast: float = 0.4
    """Factor within [1 - c, 1 + c]."""
    saturation: float = 0.2
    """Factor within [1 - s, 1 + s]."""
    hue: float = 0.1
    """Turn of the color circle within [-h, h]; 3 channels only."""
    grayscale: float = 0.0
    """Probability of grayscale."""
    blur: float = 0.0
    """Probability of a Gaussian blur; its kernel covers a tenth of the view (23 pixels at 224)."""
    sigma: Range = (0.1, 2.0)
    """Standard deviation of the blur in pixels of the view, lowest and highest."""
    solarize: float = 0.0
    """Probability of solarizing: inverting the pixels of at least `threshold`."""
    threshold: float = 0.5
    """Pixel value in [0, 1] from which solarizing inverts."""

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise UserError(f"scale={self.scale}: give (lowest, highest) share of the area, 0 < lowest <= highest <= 1")
        for name in ("ratio", "sigma"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise UserError(f"{name}={(low, high)}: give (lowest, highest) with 0 < lowest <= highest")
        for name in ("flip", "jitter", "grayscale", "blur", "solarize", "threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}={getattr(self, name)}: give a value from 0 to 1")
        for name in ("brightness", "contrast", "saturation"):
            if getattr(self, name) < 0:
                raise UserError(f"{name}={getattr(self, name)}: give a strength of 0 or more")
        if not 0 <= self.hue <= 0.5:
            raise UserError(f"hue={self.hue}: give a turn from 0 to 0.5 (half the color circle)")


@dataclass(frozen=True)
class ViewParameters:
    """Random parameters of one view of B images; every tensor is on the CPU.

    Attributes:
        boxes: top, left, height, width of the crop in whole pixels of the image, int64 [B, 4].
        flip: bool [B].
        order: the four changes in their order (brightness 0, contrast 1, saturation 2, hue 3), int64 [B, 4].
        factors: of brightness, contrast, saturation and hue, float32 [B, 4]; (1, 1, 1, 0) changes nothing.
        grayscale: bool [B].
        sigma: standard deviation of the blur, float32 [B]; 0 is no blur.
        solarize: bool [B].
    """

    boxes: Tensor
    flip: Tensor
    order: Tensor
    factors: Tensor
    grayscale: Tensor
    sigma: Tensor
    solarize: Tensor

    def __getitem__(self, rows: slice) -> "ViewParameters":
        return ViewParameters(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


def draw(config: ViewConfig, sizes: Tensor, streams: RandomStreams, *, view: int = 0) -> ViewParameters:
    """Draws the parameters of one view of every image.

    Args:
        config: how the view is drawn.
        sizes: height and width of every image, [B, 2].
        streams: random numbers of the images.
        view: number of the view within its sample.
    """

    def numbers(operation: Operation) -> Tensor:
        return streams.uniforms(operation, NUMBERS[operation], view=view)

    jitter, blur = numbers(Operation.JITTER), numbers(Operation.BLUR)
    strengths = (config.brightness, config.contrast, config.saturation)
    low = torch.tensor([max(0.0, 1 - s) for s in strengths] + [-config.hue], dtype=torch.float64)
    high = torch.tensor([1 + s for s in strengths] + [config.hue], dtype=torch.float64)
    factors = low + (high - low) * jitter[:, 5:9]
    factors = torch.where(jitter[:, :1] < config.jitter, factors, torch.tensor([1.0, 1.0, 1.0, 0.0]))
    sigma = config.sigma[0] + (config.sigma[1] - config.sigma[0]) * blur[:, 1]
    return ViewParameters(
        boxes=_boxes(config, numbers(Operation.CROP), sizes),
        flip=numbers(Operation.FLIP)[:, 0] < config.flip,
        order=jitter[:, 1:5].argsort(dim=1),
        factors=factors.float(),
        grayscale=numbers(Operation.GRAYSCALE)[:, 0] < config.grayscale,
        sigma=torch.where(blur[:, 0] < config.blur, sigma, 0.0).float(),
        solarize=numbers(Operation.SOLARIZE)[:, 0] < config.solarize,
    )


def _boxes(config: ViewConfig, numbers: Tensor, sizes: Tensor) -> Tensor:
    """torchvision's RandomResizedCrop.get_params for a batch: the first attempt that fits, else the largest central box.

    Args:
        numbers: an area and a ratio for every attempt, and the place of the box, [B, 2 ATTEMPTS + 2].

    Returns:
        top, left, height, width, int64 [B, 4].
    """
    height, width = sizes.cpu().double().unbind(1)
    log_low, log_high = math.log(config.ratio[0]), math.log(config.ratio[1])
    share = config.scale[0] + (config.scale[1] - config.scale[0]) * numbers[:, :ATTEMPTS]
    aspect = (log_low + (log_high - log_low) * numbers[:, ATTEMPTS : 2 * ATTEMPTS]).exp()
    area = share * (height * width)[:, None]
    w, h = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()  # [B, ATTEMPTS]
    fits = (w >= 1) & (w <= width[:, None]) & (h >= 1) & (h <= height[:, None])
    first = fits.int().argmax(dim=1, keepdim=True)
    w, h, fits = w.gather(1, first)[:, 0], h.gather(1, first)[:, 0], fits.any(dim=1)
    top = (numbers[:, 2 * ATTEMPTS] * (height - h + 1)).floor()
    left = (numbers[:, 2 * ATTEMPTS + 1] * (width - w + 1)).floor()

    central_w = torch.minimum(width, (height * config.ratio[1]).round())
    central_h = torch.minimum(height, (width / config.ratio[0]).round())
    w, h = torch.where(fits, w, central_w), torch.where(fits, h, central_h)
    top = torch.where(fits, top, ((height - h) / 2).floor())
    left = torch.where(fits, left, ((width - w) / 2).floor())
    return torch.stack([top, left, h, w], dim=1).long()  # [B, 4]
