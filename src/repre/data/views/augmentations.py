"""Random augmentations of one view: their settings, and the draw of their parameters on the CPU, without the pixels.

The parameters are a function of (seed, epoch, view, position). Every operation draws from its stream of `random_streams`.
They are applied, deterministically and on the device of the pixels, by `geometry` (crop and flip) and then `color`, or on
CUDA by `fused`, whose kernels compute the same.

To add one: settings in `ViewConfig`, a stream in `Operation` and its count in `NUMBERS`, a parameter in `ViewParameters`
that `draw_all` sets, and its formula in `color.apply_color` and in `triton_kernels`.

    B  images in the batch    N  random numbers of a sample    V  views
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from repre.data.views.random_streams import Operation, RandomStreams
from repre.errors import UserError
from repre.types import ViewParameters
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
    """Width / height of the crop, lowest and highest; times that of the view, if the view is not square."""
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
    """Probability of a Gaussian blur; its kernel reaches 4 sigma, whatever the side of the view."""
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
        if not 0 <= self.hue <= 0.5:
            raise UserError(f"hue={self.hue}: give a turn from 0 to 0.5 (half the color circle)")


def draw(config: ViewConfig, sizes: Tensor, streams: RandomStreams, *, view: int = 0) -> ViewParameters:
    """Draws the parameters of one view of every image.

    Args:
        config: how the view is drawn.
        sizes: height and width of every image, [B, 2].
        streams: random numbers of the images.
        view: number of the view within its sample.
    """
    return draw_all([config], sizes, streams, first=view)[0]


def draw_all(
    configs: Sequence[ViewConfig], sizes: Tensor, streams: RandomStreams, *, first: int = 0
) -> list[ViewParameters]:
    """Draws the parameters of several views at once, those of `draw` to the bit.

    Args:
        configs: how each of the V views is drawn.
        sizes: height and width of every image, [B, 2].
        streams: random numbers of the images.
        first: number of the first view within its sample; the others follow.
    """

    def numbers(operation: Operation) -> Tensor:
        return streams.uniforms_of_views(operation, NUMBERS[operation], range(first, first + len(configs)))  # [V, B, N]

    def setting(values: Callable[[ViewConfig], Any]) -> Tensor:
        """A setting of every view, float64 [V, 1], or [V, 1, n] if it is n numbers."""
        return torch.tensor([values(config) for config in configs], dtype=torch.float64)[:, None]

    jitter, blur = numbers(Operation.JITTER), numbers(Operation.BLUR)
    strengths = [(c.brightness, c.contrast, c.saturation) for c in configs]
    lowest = [[max(0.0, 1 - s) for s in given] + [-c.hue] for given, c in zip(strengths, configs)]
    highest = [[1 + s for s in given] + [c.hue] for given, c in zip(strengths, configs)]
    low, high = (torch.tensor(values, dtype=torch.float64)[:, None] for values in (lowest, highest))
    factors = low + (high - low) * jitter[..., 5:9]
    factors = torch.where(jitter[..., :1] < setting(lambda c: [c.jitter]), factors, torch.tensor([1.0, 1.0, 1.0, 0.0]))
    sigma = setting(lambda c: c.sigma[0]) + setting(lambda c: c.sigma[1] - c.sigma[0]) * blur[..., 1]
    drawn = {
        "boxes": _boxes(configs, numbers(Operation.CROP), sizes),
        "flip": numbers(Operation.FLIP)[..., 0] < setting(lambda c: c.flip),
        "order": jitter[..., 1:5].argsort(dim=-1),
        "factors": factors.float(),
        "grayscale": numbers(Operation.GRAYSCALE)[..., 0] < setting(lambda c: c.grayscale),
        "sigma": torch.where(blur[..., 0] < setting(lambda c: c.blur), sigma, 0.0).float(),
        "solarize": numbers(Operation.SOLARIZE)[..., 0] < setting(lambda c: c.solarize),
    }
    return [ViewParameters(**{name: values[view] for name, values in drawn.items()}) for view in range(len(configs))]


def _boxes(configs: Sequence[ViewConfig], numbers: Tensor, sizes: Tensor) -> Tensor:
    """torchvision's RandomResizedCrop.get_params for views: the first attempt that fits, else the largest central box.

    Args:
        numbers: an area and a ratio for every attempt, and the place of the box, [V, B, 2 ATTEMPTS + 2].

    Returns:
        top, left, height, width, int64 [V, B, 4].
    """
    height, width = sizes.cpu().double().unbind(1)  # [B]
    settings = [(*c.scale, *c.ratio, math.log(c.ratio[0]), math.log(c.ratio[1])) for c in configs]
    low, high, ratio_low, ratio_high, log_low, log_high = torch.tensor(settings, dtype=torch.float64)[..., None].unbind(
        1
    )
    share = low[..., None] + (high - low)[..., None] * numbers[..., :ATTEMPTS]
    aspect = (log_low[..., None] + (log_high - log_low)[..., None] * numbers[..., ATTEMPTS : 2 * ATTEMPTS]).exp()
    area = share * (height * width)[:, None]
    w, h = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()  # [V, B, ATTEMPTS]
    fits = (w >= 1) & (w <= width[:, None]) & (h >= 1) & (h <= height[:, None])
    attempt = fits.int().argmax(dim=-1, keepdim=True)
    w, h, fits = w.gather(-1, attempt)[..., 0], h.gather(-1, attempt)[..., 0], fits.any(dim=-1)
    top = (numbers[..., 2 * ATTEMPTS] * (height - h + 1)).floor()
    left = (numbers[..., 2 * ATTEMPTS + 1] * (width - w + 1)).floor()

    central_w = torch.minimum(width, (height * ratio_high).round().clamp(min=1))
    central_h = torch.minimum(height, (width / ratio_low).round().clamp(min=1))
    w, h = torch.where(fits, w, central_w), torch.where(fits, h, central_h)
    top = torch.where(fits, top, ((height - h) / 2).floor())
    left = torch.where(fits, left, ((width - w) / 2).floor())
    return torch.stack([top, left, h, w], dim=-1).long()  # [V, B, 4]
