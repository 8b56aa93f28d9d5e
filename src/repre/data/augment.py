"""One view of every image of a batch: draw its random parameters | apply them as batched operations.

The first half runs on the CPU and looks at no pixel: `uniforms` reads a counter-based generator at (seed, epoch,
stream, position), so that nothing depends on batch, rank or worker, and `draw` makes parameters of the numbers.
The second half (`crop_resize`, `recolour`, `normalise`) is deterministic and runs wherever the pixels are. Which images
an operation touches is known on the CPU, so nothing there waits for the device.

    B  images in the batch        C  channels                   N  random numbers per sample
    S  side of the view           K  side of the canvas         t  taps of the blur

The operations are torchvision's (transforms.v2.functional on float images), with the same formulas and clamping, in the
order of MoCo v3's script: crop, jitter, grey, blur, solarise. The flip commutes with them and is done with the crop.
An image that an operation does not select comes out of it bit for bit as it went in.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from repre.errors import UserError

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
ATTEMPTS = 10
"""Tries at a crop box before the largest central one is taken, as in torchvision's RandomResizedCrop."""

DRAWS = 36
"""Random numbers of one view: 2 per attempt, 2 crop offsets, 1 flip, 1 + 4 + 4 jitter (whether, order, factors),
1 grey, 2 blur, 1 solarise. A multiple of 4, the width of Philox's counter."""

LUMA = (0.2989, 0.587, 0.114)

Range = tuple[float, float]
Filter = Literal["bilinear", "bicubic"]


@dataclass(frozen=True)
class ViewConfig:
    """How one kind of view is drawn. Defaults: crop and flip only."""

    scale: Range = (0.08, 1.0)
    """Share of the image's area that the crop covers, lowest and highest."""
    ratio: Range = (3 / 4, 4 / 3)
    """Width / height of the crop, lowest and highest."""
    filter: Filter = "bilinear"
    """Filter of the antialiased resize: torchvision's default, or bicubic as in DINO."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    jitter: float = 0.0
    """Probability of the colour jitter: the four changes below, in an order drawn for every image."""
    brightness: float = 0.4
    """Factor within [1 - b, 1 + b]."""
    contrast: float = 0.4
    """Factor within [1 - c, 1 + c]."""
    saturation: float = 0.2
    """Factor within [1 - s, 1 + s]."""
    hue: float = 0.1
    """Turn of the colour circle within [-h, h]; 3 channels only."""
    grey: float = 0.0
    """Probability of losing all colour."""
    blur: float = 0.0
    """Probability of a Gaussian blur; its kernel covers a tenth of the view (23 pixels at 224)."""
    sigma: Range = (0.1, 2.0)
    """Standard deviation of the blur in pixels of the view, lowest and highest."""
    solarise: float = 0.0
    """Probability of inverting the pixels from `threshold` on."""
    threshold: float = 0.5
    """Brightness, as a share of the range, from which solarising inverts."""

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise UserError(f"scale={self.scale}: give (lowest, highest) share of the area, 0 < lowest <= highest <= 1")
        for name in ("ratio", "sigma"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise UserError(f"{name}={(low, high)}: give (lowest, highest) with 0 < lowest <= highest")
        if self.filter not in ("bilinear", "bicubic"):
            raise UserError(f"filter={self.filter!r}: choose 'bilinear' or 'bicubic'")
        for name in ("flip", "jitter", "grey", "blur", "solarise", "threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}={getattr(self, name)}: give a value from 0 to 1")
        for name in ("brightness", "contrast", "saturation"):
            if getattr(self, name) < 0:
                raise UserError(f"{name}={getattr(self, name)}: give a strength of 0 or more")
        if not 0 <= self.hue <= 0.5:
            raise UserError(f"hue={self.hue}: give a turn from 0 to 0.5 (half the colour circle)")


@dataclass(frozen=True)
class ViewParameters:
    """What was drawn for one view of B images; every tensor on the CPU.

    Attributes:
        boxes: top, left, height, width of the crop in whole pixels of the image, int64 [B, 4].
        flip: bool [B].
        order: which change (brightness 0, contrast 1, saturation 2, hue 3) comes at which place, int64 [B, 4].
        factors: of brightness, contrast, saturation and hue, float32 [B, 4]; (1, 1, 1, 0) changes nothing.
        grey: bool [B].
        sigma: of the blur, float32 [B]; 0 is no blur.
        solarise: bool [B].
    """

    boxes: Tensor
    flip: Tensor
    order: Tensor
    factors: Tensor
    grey: Tensor
    sigma: Tensor
    solarise: Tensor

    def __getitem__(self, rows: slice) -> "ViewParameters":
        return ViewParameters(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


# ---------------------------------------------------------------------------------------------------------- draw


def uniforms(*, seed: int, epoch: int, stream: int, positions: Tensor, count: int = DRAWS) -> Tensor:
    """Random numbers in [0, 1) of every sample, float64 [B, count]; `count` is rounded up to a multiple of 4.

    Philox is a function of (key, counter): the key is (seed, epoch, stream), the counter the sample's position. Runs of
    consecutive positions, the usual batch, are drawn at once.
    """
    if not 0 <= seed < 2**64:
        raise UserError(f"seed={seed}: give a whole number from 0 to 2**64 - 1")
    assert 0 <= epoch < 2**32, epoch
    assert 0 <= stream < 2**32, stream
    key = np.array([seed, epoch << 32 | stream], dtype=np.uint64)
    blocks = -(-count // 4)
    places = positions.cpu().numpy().astype(np.int64)
    assert (places >= 0).all(), "positions count from 0"
    runs = np.split(places, np.flatnonzero(np.diff(places) != 1) + 1)
    drawn = []
    for run in runs:
        counter = [int(run[0]) * blocks if len(run) else 0, 0, 0, 0]
        generator = np.random.Generator(np.random.Philox(key=key, counter=counter))
        drawn.append(generator.random((len(run), 4 * blocks)))
    return torch.from_numpy(np.concatenate(drawn))[:, :count]  # [B, count]


def draw(config: ViewConfig, numbers: Tensor, sizes: Tensor) -> ViewParameters:
    """The parameters of one view, from `uniforms` [B, DRAWS] and the images' height and width [B, 2]."""
    assert numbers.shape == (len(sizes), DRAWS), numbers.shape
    crop, flip, jitter, grey, blur, solarise = numbers.split([2 * ATTEMPTS + 2, 1, 9, 1, 2, 1], dim=1)
    strengths = (config.brightness, config.contrast, config.saturation)
    low = torch.tensor([max(0.0, 1 - s) for s in strengths] + [-config.hue], dtype=torch.float64)
    high = torch.tensor([1 + s for s in strengths] + [config.hue], dtype=torch.float64)
    factors = low + (high - low) * jitter[:, 5:]
    factors = torch.where(jitter[:, :1] < config.jitter, factors, torch.tensor([1.0, 1.0, 1.0, 0.0]))
    sigma = config.sigma[0] + (config.sigma[1] - config.sigma[0]) * blur[:, 1]
    return ViewParameters(
        boxes=_boxes(config, crop, sizes),
        flip=flip[:, 0] < config.flip,
        order=jitter[:, 1:5].argsort(dim=1),
        factors=factors.float(),
        grey=grey[:, 0] < config.grey,
        sigma=torch.where(blur[:, 0] < config.blur, sigma, 0.0).float(),
        solarise=solarise[:, 0] < config.solarise,
    )


def draw_masks(numbers: Tensor, *, size: int, patch: int, ratio: float) -> Tensor:
    """Bool maps [B, 1, S, S] that hide exactly round(ratio x patches) square patches, from uniforms [B, patches]."""
    grid = size // patch
    hidden = round(ratio * grid * grid)
    rank = numbers[:, : grid * grid].argsort(dim=1).argsort(dim=1)
    mask = (rank < hidden).view(-1, 1, grid, grid)
    return mask.repeat_interleave(patch, dim=2).repeat_interleave(patch, dim=3)  # [B, 1, S, S]


def _boxes(config: ViewConfig, numbers: Tensor, sizes: Tensor) -> Tensor:
    """torchvision's RandomResizedCrop.get_params for a batch: the first attempt that fits, else the central box."""
    height, width = sizes.cpu().double().unbind(1)
    log_low, log_high = math.log(config.ratio[0]), math.log(config.ratio[1])
    share = config.scale[0] + (config.scale[1] - config.scale[0]) * numbers[:, :ATTEMPTS]
    aspect = (log_low + (log_high - log_low) * numbers[:, ATTEMPTS : 2 * ATTEMPTS]).exp()
    area = share * (height * width)[:, None]
    w, h = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()  # [B, ATTEMPTS]
    fits = (w >= 1) & (w <= width[:, None]) & (h >= 1) & (h <= height[:, None])
    first = fits.int().argmax(dim=1, keepdim=True)
    w, h, fits = w.gather(1, first)[:, 0], h.gather(1, first)[:, 0], fits.any(dim=1)
    top = (numbers[:, -2] * (height - h + 1)).floor()
    left = (numbers[:, -1] * (width - w + 1)).floor()

    central_w = torch.minimum(width, (height * config.ratio[1]).round())
    central_h = torch.minimum(height, (width / config.ratio[0]).round())
    w, h = torch.where(fits, w, central_w), torch.where(fits, h, central_h)
    top = torch.where(fits, top, ((height - h) / 2).floor())
    left = torch.where(fits, left, ((width - w) / 2).floor())
    return torch.stack([top, left, h, w], dim=1).long()  # [B, 4]


# --------------------------------------------------------------------------------------------------------- apply


def chunks(count: int, numbers: int, device: torch.device) -> Iterator[slice]:
    """Slices of a batch of `count` images of `numbers` values each: all at once, but about 4 MiB a slice on the CPU.

    There the many passes over the images gain a third (224 x 224, 3 channels) from staying in the processor's cache.
    """
    step = max(1, 2**20 // numbers) if device.type == "cpu" else count
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def crop_resize(
    pixels: Tensor, boxes: Tensor, flip: Tensor, *, size: int, value_range: Range, filter: Filter = "bilinear"
) -> Tensor:
    """Cut a box out of every canvas and resize it to S x S: pixels [B, C, K, K] -> [0, 1], float32 [B, C, S, S].

    The resize is antialiased (PIL's filters) and sees nothing outside its box, like torchvision's resized_crop.
    """
    grid = torch.full((len(boxes), 2), size)
    return resample(
        pixels, boxes, grid, torch.zeros_like(grid), flip, size=size, value_range=value_range, filter=filter
    )


def resample(
    pixels: Tensor,
    boxes: Tensor,
    grid: Tensor,
    offset: Tensor,
    flip: Tensor,
    *,
    size: int,
    value_range: Range,
    filter: Filter,
) -> Tensor:
    """Resize every box to `grid` (height, width) pixels and keep the S x S window at `offset` (top, left) of it.

    All of boxes [B, 4], grid [B, 2], offset [B, 2], flip [B] lie on the CPU. Two implementations, because on the CPU
    interpolating image by image is 2 (96 -> 64) to 13 (448 -> 224) times as fast as multiplying dense matrices.
    """
    inside = (offset >= 0).all() and (offset + size <= grid).all()
    assert inside, "the window has to lie within the grid"
    way = _resample_loop if pixels.device.type == "cpu" else _resample_dense
    low, high = value_range
    return way(pixels, boxes, grid, offset, flip, size, filter).sub_(low).div_(high - low).clamp_(0, 1)


def _resample_loop(
    pixels: Tensor, boxes: Tensor, grid: Tensor, offset: Tensor, flip: Tensor, size: int, filter: Filter
) -> Tensor:
    out = torch.empty(len(pixels), pixels.shape[1], size, size)
    rows = zip(boxes.tolist(), grid.tolist(), offset.tolist(), flip.tolist())
    for i, ((top, left, height, width), shape, (y, x), mirrored) in enumerate(rows):
        box = pixels[i : i + 1, :, top : top + height, left : left + width].float()
        view = F.interpolate(box, shape, mode=filter, antialias=True)[0, :, y : y + size, x : x + size]
        out[i] = view.flip(-1) if mirrored else view
    return out


def _resample_dense(
    pixels: Tensor, boxes: Tensor, grid: Tensor, offset: Tensor, flip: Tensor, size: int, filter: Filter
) -> Tensor:
    numbers = torch.cat([boxes, grid, offset, flip[:, None].long()], dim=1).to(pixels.device, non_blocking=True)
    top, left, height, width, grid_y, grid_x, y, x, mirrored = numbers.unbind(1)
    rows = _resize_weights(top, height, grid_y, y, torch.zeros_like(y), size, pixels.shape[2], filter)
    columns = _resize_weights(left, width, grid_x, x, mirrored, size, pixels.shape[3], filter)
    return _separable(rows, pixels.float(), columns)


def _resize_weights(
    start: Tensor, length: Tensor, grid: Tensor, offset: Tensor, flip: Tensor, size: int, side: int, filter: Filter
) -> Tensor:
    """Weight of every pixel of the canvas in every pixel of the view along one axis, [B, S, K]; 0 outside the box."""
    start, length, grid, offset, flip = (v[:, None, None] for v in (start, length, grid, offset, flip))
    at = torch.arange(size, device=start.device)[None, :, None]
    at = offset + torch.where(flip > 0, size - 1 - at, at)
    step = length.float() / grid
    pixel = torch.arange(side, device=start.device) - start  # counted from the border of the box
    away = (pixel + 0.5 - (at + 0.5) * step) / step.clamp(min=1)
    weights = (_tent(away) if filter == "bilinear" else _cubic(away)) * ((pixel >= 0) & (pixel < length))
    return weights / weights.sum(-1, keepdim=True)


def _tent(t: Tensor) -> Tensor:
    return (1 - t.abs()).clamp(min=0)


def _cubic(t: Tensor) -> Tensor:
    """Keys' cubic convolution with a = -1/2, PIL's bicubic."""
    t = t.abs()
    near, far = (1.5 * t - 2.5) * t * t + 1, ((2.5 - 0.5 * t) * t - 4) * t + 2
    return torch.where(t < 1, near, torch.where(t < 2, far, 0.0))


def _separable(rows: Tensor, images: Tensor, columns: Tensor) -> Tensor:
    """rows [B, S, K] x images [B, C, K, K] x columns' [B, S, K], in float32 also where autocast is on."""
    kind = images.device.type
    with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext():
        return rows[:, None] @ images @ columns[:, None].mT  # [B, C, S, S]


def recolour(images: Tensor, parameters: ViewParameters, config: ViewConfig) -> Tensor:
    """Colour jitter, grey, blur and solarise, in place on images in [0, 1], [B, C, S, S]."""
    for place in range(4):
        change = parameters.order[:, place]
        factor = parameters.factors.gather(1, change[:, None])[:, 0]
        _blend(images, change, factor)
        if images.shape[1] == 3:
            _on_chosen(images, (change == HUE) & (factor != 0), turn_hue, factor)
    _on_chosen(images, parameters.grey, lambda chosen: grey(chosen).expand_as(chosen))
    taps = blur_taps(images.shape[-1])
    _on_chosen(images, parameters.sigma > 0, lambda chosen, sigma: blur(chosen, sigma, taps), parameters.sigma)
    _on_chosen(images, parameters.solarise, lambda chosen: torch.where(chosen >= config.threshold, 1 - chosen, chosen))
    return images  # [B, C, S, S]


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(images - mean) / std in place; mean and std [C, 1, 1]."""
    return images.sub_(mean).div_(std)


def _on_chosen(images: Tensor, chosen: Tensor, change: Callable[..., Tensor], *values: Tensor) -> None:
    """Replace the chosen images by `change(images, *values)`, in place; chosen [B] and values [B] lie on the CPU."""
    index = chosen.nonzero()[:, 0]
    if len(index) == 0:
        return
    sent = [v[index].to(images.device, non_blocking=True) for v in values]
    if len(index) == len(images):
        images.copy_(change(images, *sent))
    else:
        index = index.to(images.device, non_blocking=True)
        images.index_copy_(0, index, change(images.index_select(0, index), *sent))


def _blend(images: Tensor, change: Tensor, factor: Tensor) -> None:
    """Brightness, contrast or saturation of every image, in place: a blend with black, its mean grey, or its grey.

    One pass for all three; a factor of 1, which images that turn their hue at this place get too, leaves every bit.
    """
    factor = torch.where(change == HUE, 1.0, factor)
    if bool((factor == 1).all()):
        return
    of_mean, of_grey = ((1 - factor) * (change == kind) for kind in (CONTRAST, SATURATION))
    needs_grey = bool((of_mean + of_grey).any())
    shares = torch.stack([factor, of_mean, of_grey])[..., None, None, None].to(images.device, non_blocking=True)
    base = grey(images) if needs_grey else None
    images.mul_(shares[0])
    if base is not None:
        mean = base.mean(dim=(1, 2, 3), keepdim=True)
        images.add_(base.mul_(shares[2]).add_(mean * shares[1]))
    images.clamp_(0, 1)


def grey(images: Tensor) -> Tensor:
    """Brightness of every pixel, [B, 1, S, S]: the luma of RGB; the mean of the channels where there are not three."""
    if images.shape[1] != 3:
        return images.mean(dim=1, keepdim=True)
    red, green, blue = (images[:, i : i + 1] for i in range(3))
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def turn_hue(images: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue of RGB images [B, 3, S, S] by `turn` [B] of the circle, keeping HSV's value and saturation."""
    red, green, blue = images.split(1, dim=1)
    value = images.amax(dim=1, keepdim=True)
    chroma = value - images.amin(dim=1, keepdim=True)
    sextant = torch.where(
        value == red, green - blue, torch.where(value == green, blue - red + 2 * chroma, red - green + 4 * chroma)
    )
    sextant = sextant.div_(torch.where(chroma == 0, 1.0, chroma)).add_(6 * turn[:, None, None, None])
    # A channel is `value` less a share of `chroma`; the share is a trapezium over the circle, shifted for each channel.
    shift = torch.tensor([5.0, 3.0, 1.0]).view(1, 3, 1, 1).to(images.device, non_blocking=True)
    share = (sextant + shift).remainder_(6).sub_(2).abs_().neg_().add_(2).clamp_(0, 1)
    return value - chroma * share  # [B, 3, S, S]


def blur_taps(size: int) -> int:
    """Odd length of the blur's kernel: a tenth of the view as in SimCLR, 23 at 224 pixels, at least 3."""
    return max(3, 2 * round((size * 23 / 224 - 1) / 2) + 1)


def blur(images: Tensor, sigma: Tensor, taps: int) -> Tensor:
    """Gaussian blur of every image [B, C, S, S] with its own sigma [B] over `taps` pixels; borders are reflected.

    Two implementations: on the CPU (one thread, 64 to 224 pixels) adding shifted images takes a fifth of the matrices'
    time, and half to two thirds of a grouped convolution's.
    """
    if images.device.type == "cpu":
        return _blur_shifts(images, sigma, taps)
    bands = _blur_bands(sigma, taps, images.shape[-1])
    return _separable(bands, images, bands)


def _blur_shifts(images: Tensor, sigma: Tensor, taps: int) -> Tensor:
    reach = taps // 2
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma[:, None]) ** 2)
    weights = (weights / weights.sum(dim=1, keepdim=True))[..., None, None, None]  # [B, t, 1, 1, 1]
    near = min(reach, math.ceil(5 * float(sigma.max())))  # what lies beyond 5 sigma weighs less than 1e-6
    side = images.shape[-1]
    for axis in (2, 3):
        padded = F.pad(images, (0, 0, near, near) if axis == 2 else (near, near, 0, 0), mode="reflect")
        images = padded.narrow(axis, near, side) * weights[:, reach]
        for away in range(1, near + 1):
            for start in (near - away, near + away):
                images.addcmul_(padded.narrow(axis, start, side), weights[:, reach + away])
    return images


def _blur_bands(sigma: Tensor, taps: int, side: int) -> Tensor:
    """The blur along one axis as matrices [B, S, S]; a reflected pixel adds to the weight of the one it mirrors."""
    to, source = torch.arange(side, device=sigma.device)[:, None], torch.arange(side, device=sigma.device)[None, :]

    def weight(away: Tensor) -> Tensor:
        return torch.exp(-0.5 * (away / sigma[:, None, None]) ** 2) * (away.abs() <= taps // 2)

    last = side - 1
    bands = weight(to - source) + weight(to + source) * (source > 0)
    bands = bands + weight(to + source - 2 * last) * (source < last)
    return bands / bands.sum(-1, keepdim=True)
