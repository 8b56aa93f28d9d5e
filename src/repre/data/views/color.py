"""Changes the colors of every image of a batch by its own parameters, on the device of the pixels.

The operations are torchvision's (transforms.v2.functional on float images), with the same formulas and clamping, in the
order of MoCo v3's script: jitter, grayscale, blur, solarize. The parameters are on the CPU, so nothing here waits for the
device. An operation leaves every bit of the images that it does not select.

    B  images in the batch    C  channels
    H, W  height and width of a view
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from repre.data.views.augmentations import CONTRAST, HUE, SATURATION, ViewConfig, ViewParameters
from repre.data.views.geometry import separable

LUMA = (0.2989, 0.587, 0.114)


def apply_color(images: Tensor, parameters: ViewParameters, config: ViewConfig) -> Tensor:
    """Applies color jitter, grayscale, blur and solarize, in place on images in [0, 1], [B, C, H, W]."""
    for step in range(4):
        change = parameters.order[:, step]
        factor = parameters.factors.gather(1, change[:, None])[:, 0]
        _blend(images, change, factor)
        if images.shape[1] == 3:
            _on_chosen(images, (change == HUE) & (factor != 0), adjust_hue, factor)
    _on_chosen(images, parameters.grayscale, lambda chosen: to_grayscale(chosen).expand_as(chosen))
    _on_chosen(images, parameters.sigma > 0, blur, parameters.sigma)
    _on_chosen(images, parameters.solarize, lambda chosen: torch.where(chosen >= config.threshold, 1 - chosen, chosen))
    return images  # [B, C, H, W]


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Computes (images - mean) / std in place; mean and std are [C, 1, 1]."""
    return images.sub_(mean).div_(std)


def _on_chosen(images: Tensor, chosen: Tensor, change: Callable[..., Tensor], *values: Tensor) -> None:
    """Replaces the chosen images by `change(images, *values)`, in place; chosen [B] and values [B] are on the CPU."""
    index = chosen.nonzero()[:, 0]
    if len(index) == 0:
        return
    on_device = [v[index].to(images.device, non_blocking=True) for v in values]
    if len(index) == len(images):
        images.copy_(change(images, *on_device))
    else:
        index = index.to(images.device, non_blocking=True)
        images.index_copy_(0, index, change(images.index_select(0, index), *on_device))


def _blend(images: Tensor, change: Tensor, factor: Tensor) -> None:
    """Changes brightness, contrast or saturation of every image, in place: blends it with black, its mean gray, or its gray.

    One pass does all three. A factor of 1 leaves every bit; images whose change is the hue get it.
    """
    factor = torch.where(change == HUE, 1.0, factor)
    if bool((factor == 1).all()):
        return
    of_mean, of_gray = ((1 - factor) * (change == kind) for kind in (CONTRAST, SATURATION))
    needs_gray = bool((of_mean + of_gray).any())
    shares = torch.stack([factor, of_mean, of_gray])[..., None, None, None].to(images.device, non_blocking=True)
    base = to_grayscale(images) if needs_gray else None
    images.mul_(shares[0])
    if base is not None:
        mean = base.mean(dim=(1, 2, 3), keepdim=True)
        images.add_(base.mul_(shares[2]).add_(mean * shares[1]))
    images.clamp_(0, 1)


def to_grayscale(images: Tensor) -> Tensor:
    """Brightness of every pixel, [B, 1, H, W]: the luma of three channels, or the mean of any other number."""
    if images.shape[1] != 3:
        return images.mean(dim=1, keepdim=True)
    red, green, blue = (images[:, i : i + 1] for i in range(3))
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def adjust_hue(images: Tensor, turn: Tensor) -> Tensor:
    """Turns the hue of RGB images [B, 3, H, W] by `turn` [B] of the circle; keeps HSV's value and saturation."""
    red, green, blue = images.split(1, dim=1)
    value = images.amax(dim=1, keepdim=True)
    chroma = value - images.amin(dim=1, keepdim=True)
    sextant = torch.where(
        value == red, green - blue, torch.where(value == green, blue - red + 2 * chroma, red - green + 4 * chroma)
    )
    sextant = sextant.div_(torch.where(chroma == 0, 1.0, chroma)).add_(6 * turn[:, None, None, None])
    # A channel is `value` minus a share of `chroma`: a trapezoid over the circle, shifted for each channel.
    shift = torch.tensor([5.0, 3.0, 1.0]).view(1, 3, 1, 1).to(images.device, non_blocking=True)
    share = (sextant + shift).remainder_(6).sub_(2).abs_().neg_().add_(2).clamp_(0, 1)
    return value - chroma * share  # [B, 3, H, W]


def blur_reach(sigma: Tensor, side: int) -> Tensor:
    """Pixels to each side that a blur of `sigma` [B] takes in, int64 [B]: 4 sigma, but no more than a reflection has.

    Weights beyond 4 sigma have a share of 6e-5. Pillow's blur, which MoCo v3 and DINO use, does not depend on the view's
    side either; SimCLR's kernel covers a tenth of the view: 5.5 of the largest sigma at 224 px, but 2 at 96 px.
    """
    return (4 * sigma).ceil().long().clamp(max=side - 1)


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blurs every image [B, C, H, W] by a Gaussian with its own sigma [B] over `blur_reach`; borders are reflected.

    Two implementations: on the CPU (one thread, 64 to 224 pixels) adding shifted images takes a fifth of the time of
    products with matrices, and half to two thirds of that of a grouped convolution.
    """
    if images.device.type == "cpu":
        return _blur_shifts(images, sigma)
    rows, columns = (_blur_bands(sigma, side) for side in images.shape[-2:])
    return separable(rows, images, columns)


def _blur_shifts(images: Tensor, sigma: Tensor) -> Tensor:
    order = sigma.argsort(descending=True)  # the widest first: the others need fewer shifts
    images, sigma = images[order], sigma[order]
    for axis in (2, 3):
        side = images.shape[axis]
        reach = blur_reach(sigma, side)
        most = int(reach[0])
        away = torch.arange(most + 1)
        weights = torch.exp(-0.5 * (away / sigma[:, None]) ** 2) * (away <= reach[:, None])
        total = 2 * weights.cumsum(dim=1)[:, -1:] - 1  # one by one: zeros that wider blurs add change no bit
        weights = (weights / total)[..., None, None, None]  # [B, distances, 1, 1, 1]
        padded = F.pad(images, (0, 0, most, most) if axis == 2 else (most, most, 0, 0), mode="reflect")
        images = padded.narrow(axis, most, side) * weights[:, 0]
        for distance in range(1, most + 1):
            count = int((reach >= distance).sum())
            for start in (most - distance, most + distance):
                images[:count].addcmul_(padded[:count].narrow(axis, start, side), weights[:count, distance])
    return torch.empty_like(images).index_copy_(0, order, images)


def _blur_bands(sigma: Tensor, side: int) -> Tensor:
    """The blur along one axis as matrices [B, H, H]; a reflected pixel adds its weight to the pixel that it mirrors."""
    to, source = torch.arange(side, device=sigma.device)[:, None], torch.arange(side, device=sigma.device)[None, :]
    reach = blur_reach(sigma, side)[:, None, None]

    def weight(away: Tensor) -> Tensor:
        return torch.exp(-0.5 * (away / sigma[:, None, None]) ** 2) * (away.abs() <= reach)

    last = side - 1
    bands = weight(to - source) + weight(to + source) * (source > 0)
    bands = bands + weight(to + source - 2 * last) * (source < last)
    return bands / bands.sum(-1, keepdim=True)
