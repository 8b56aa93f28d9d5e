"""What the decoder makes of a few fixed images: pictures, their fidelity, and what every level adds to them.

N  images    C  channels    S  side of an image    C_l, H_l, W_l  map of level l
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from repre.data.views.render import ViewsConfig, denormalize
from repre.models.decoder import Decoder
from repre.models.repre import RePre

PANEL_IMAGES = 8


@torch.no_grad()
def rebuild(model: RePre, images: Tensor, *, views: ViewsConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """Normalized images [N, C, S, S] and their reconstructions as pictures in [0, 1], each [N, C, S, S] on the CPU."""
    mode = model.training
    model.eval()
    try:
        rebuilt = model.reconstruct(images.to(device)).float().cpu()
    finally:
        model.train(mode)
    return denormalize(images, views), as_pictures(rebuilt, images, model, views)


def as_pictures(rebuilt: Tensor, images: Tensor, model: RePre, views: ViewsConfig) -> Tensor:
    """What the decoder gave for images [N, C, S, S], on the CPU, as pictures in [0, 1]."""
    if model.reconstruction.patch_norm:
        rebuilt = borrow_patch_statistics(rebuilt, images, model.reconstruction.patch_norm)
    return denormalize(rebuilt, views)


def save_panel(shown: Tensor, rebuilt: Tensor, path: Path) -> None:
    """Writes a PNG with pictures [N, C, S, S] in the upper row and their reconstructions in the lower one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate([row_of_images(shown), row_of_images(rebuilt)])).save(path)


# ----------------------------------------------------------------------------------------------------- figures


def fidelity(shown: Tensor, rebuilt: Tensor) -> dict[str, float]:
    """How close pictures in [0, 1] are to the images, each [N, C, S, S]; means over the images.

    psnr: 10 log10(1 / mean squared error), dB.
    psnr_flat: the same of a picture that is the image's mean color everywhere; what any decoder should beat.
    ssim: structural similarity in [-1, 1] (Wang et al. 2004, equation 13; Gaussian window of 11 pixels, sigma 1.5).
    """
    flat = shown.mean((2, 3), keepdim=True).expand_as(shown)
    return {
        "psnr": float(psnr(shown, rebuilt).mean()),
        "psnr_flat": float(psnr(shown, flat).mean()),
        "ssim": float(ssim(shown, rebuilt).mean()),
    }


def psnr(one: Tensor, other: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of pictures in [0, 1], [N, C, S, S] each: [N] in dB; at most 100."""
    return -10 * torch.log10((one - other).double().square().mean((1, 2, 3)) + 1e-10)


def ssim(one: Tensor, other: Tensor, *, window: int = 11, sigma: float = 1.5) -> Tensor:
    """Structural similarity of pictures in [0, 1], [N, C, S, S] each: [N], the mean over channels and places.

    Slowly: at every place and channel, with means m, variances v and covariance c under a Gaussian window around it::

        (2 m1 m2 + 0.01²) (2 c + 0.03²) / ((m1² + m2² + 0.01²) (v1 + v2 + 0.03²))
    """
    side = min(window, one.shape[-1] - (one.shape[-1] + 1) % 2)  # small pictures: the largest odd window that fits
    away = torch.arange(side, dtype=torch.float64) - side // 2
    weights = torch.exp(-0.5 * (away / sigma) ** 2)
    kernel = torch.outer(weights, weights)[None, None] / weights.sum() ** 2

    def local(x: Tensor) -> Tensor:
        return F.conv2d(x.flatten(0, 1)[:, None], kernel).unflatten(0, x.shape[:2])[:, :, 0]

    one, other = one.double(), other.double()
    mean_one, mean_other = local(one), local(other)
    variances = local(one * one) - mean_one**2 + local(other * other) - mean_other**2
    covariance = local(one * other) - mean_one * mean_other
    likeness = (2 * mean_one * mean_other + 0.01**2) * (2 * covariance + 0.03**2)
    return (likeness / ((mean_one**2 + mean_other**2 + 0.01**2) * (variances + 0.03**2))).mean((1, 2, 3))


@torch.no_grad()
def level_shares(decoder: Decoder, maps: list[Tensor], size: tuple[int, int] | torch.Size) -> dict[str, float]:
    """What every level adds: the mean change of the pixels when that level's map is replaced by its mean over images
    and places, as a share of the sum over levels. Empty for a decoder of one level.

    Args:
        maps: the encoder's maps of a few images, each [N, C_l, H_l, W_l].
    """
    if len(decoder.levels) < 2:
        return {}
    whole = decoder(maps, size)
    changes = {}
    for level in decoder.levels:
        without = [mean_map(one) if place == level else one for place, one in enumerate(maps)]
        changes[level] = float((decoder(without, size) - whole).abs().mean())
    total = sum(changes.values())
    return {f"level_share_{level}": change / total if total else 0.0 for level, change in changes.items()}


@torch.no_grad()
def from_one_level(decoder: Decoder, maps: list[Tensor], level: int, size: tuple[int, int] | torch.Size) -> Tensor:
    """Pixels [N, C, S, S] rebuilt from one level; the other levels' maps are replaced by their mean."""
    return decoder([one if place == level else mean_map(one) for place, one in enumerate(maps)], size)


def mean_map(maps: Tensor) -> Tensor:
    """A map [N, C_l, H_l, W_l] whose every cell is the mean over images and places."""
    return maps.mean((0, 2, 3), keepdim=True).expand_as(maps)


# ---------------------------------------------------------------------------------------------------- pictures


def borrow_patch_statistics(rebuilt: Tensor, images: Tensor, patch: int) -> Tensor:
    """Gives normalized patches [B, C, H, W] the mean and spread of the images' patches, so that they can be seen."""
    b, c, h, w = images.shape
    shape = (b, c, h // patch, patch, w // patch, patch)
    variance, mean = torch.var_mean(images.reshape(shape), dim=(1, 3, 5), keepdim=True, correction=0)
    return (rebuilt.reshape(shape) * (variance + 1e-6).sqrt() + mean).reshape(b, c, h, w)


def row_of_images(images: Tensor, *, least: int = 128, gap: int = 4) -> np.ndarray:
    """Images [N, C, S, S] in [0, 1] side by side as uint8 [H, W, 3]; small ones enlarged to at least `least` pixels."""
    images = three_channels(images)
    times = -(-least // images.shape[-1])
    images = images.clamp(0, 1).repeat_interleave(times, 2).repeat_interleave(times, 3)
    images = F.pad(images, (gap // 2,) * 4, value=1.0)
    return as_bytes(torch.cat(list(images), dim=2)[None])[0]


def three_channels(images: Tensor) -> Tensor:
    """Images [N, C, S, S] as [N, 3, S, S]: three channels as they are, else the first one three times."""
    return images if images.shape[1] == 3 else images[:, :1].expand(-1, 3, -1, -1)


def as_bytes(images: Tensor) -> np.ndarray:
    """Images [N, 3, H, W] in [0, 1] as uint8 [N, H, W, 3]."""
    return (images.clamp(0, 1).permute(0, 2, 3, 1) * 255).round().byte().numpy()
