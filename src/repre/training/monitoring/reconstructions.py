"""Reconstructions of a few images: pictures of them, how faithful they are, and what each level contributes.

N  images    C  channels    H, W  height and width of an image    C_l, H_l, W_l  shape of level l's feature map
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from repre.data.views.render import denormalize, draw_views
from repre.data.views.view_recipes import ViewsConfig
from repre.models.decoder import Decoder
from repre.models.repre import RePre, in_pixels
from repre.utils.io import write_atomically
from repre.utils.pieces import Halving

PANEL_IMAGES = 8
"""Images of the monitors' sample that are reconstructed at every validation."""


def rebuild(model: RePre, images: Tensor, *, views: ViewsConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """Reconstructs normalized images [N, C, H, W].

    A decoder that was trained on hidden patches alone knows nothing of the others. Then fixed patches of each image are
    hidden, and the picture shows the image itself everywhere else.

    Args:
        model: in evaluation mode.
        views: of the run, with masks that fit the encoder.

    Returns:
        Images and reconstructions in [0, 1], each [N, C, H, W], on the CPU.
    """
    masks = _fixed_masks(len(images), views) if model.reconstruction.masked_pixels == "masked" else None

    def reconstruct(rows: slice) -> Tensor:
        hidden = None if masks is None else masks[rows].to(device)
        return model.reconstruct(images[rows].to(device), hidden).float().cpu()

    rebuilt = torch.cat([*Halving()(len(images), reconstruct)])
    originals, pictures = denormalize(images, views), to_pictures(rebuilt, images, model, views)
    return originals, pictures if masks is None else pictures.where(in_pixels(masks, images), originals)


def _fixed_masks(count: int, views: ViewsConfig) -> Tensor | None:
    """For each of `count` images the patches to hide, bool [N, rows, columns]; None without masks."""
    if views.mask.kind == "none":
        return None
    one_view = replace(views, n_global=1, n_local=0, mask=replace(views.mask, image_share=1.0))
    sizes = torch.tensor(views.shape).expand(count, 2)
    (drawn,) = draw_views(one_view, sizes, torch.arange(count), epoch=0, seed=0)
    return drawn.hidden


def to_pictures(rebuilt: Tensor, images: Tensor, model: RePre, views: ViewsConfig) -> Tensor:
    """Turns the decoder's output for normalized images [N, C, H, W], on the CPU, into pictures in [0, 1]."""
    if model.reconstruction.patch_norm:
        rebuilt = restore_patch_statistics(rebuilt, images, model.reconstruction.patch_norm)
    return denormalize(rebuilt, views)


def save_panel(images: Tensor, rebuilt: Tensor, path: Path) -> None:
    """Writes a PNG with images in the upper row and their reconstructions in the lower row; [N, C, H, W] in [0, 1] each."""
    path.parent.mkdir(exist_ok=True)
    panel = Image.fromarray(np.concatenate([row_of_images(images), row_of_images(rebuilt)]))
    count = PngInfo()
    count.add_text("images", str(len(images)))  # where the report cuts the rows
    write_atomically(path, lambda file: panel.save(file, format="PNG", pnginfo=count))


# ----------------------------------------------------------------------------------------------------- metrics


def fidelity(images: Tensor, rebuilt: Tensor) -> dict[str, float]:
    """How close reconstructions are to the images, both [N, C, H, W] in [0, 1]; means over the images.

    psnr: `psnr`, in dB.
    psnr_flat: PSNR of pictures that show only each image's mean color; a decoder should beat it.
    ssim: `ssim`, from -1 to 1.
    """
    flat = images.mean((2, 3), keepdim=True).expand_as(images)
    return {
        "psnr": float(psnr(images, rebuilt).mean()),
        "psnr_flat": float(psnr(images, flat).mean()),
        "ssim": float(ssim(images, rebuilt).mean()),
    }


def psnr(images: Tensor, rebuilt: Tensor) -> Tensor:
    """Peak signal-to-noise ratio, 10 log10(1 / mean squared error), of pictures in [0, 1], [N, C, H, W] each.

    Returns:
        One value per image in dB, float64 [N]; at most 100.
    """
    return -10 * torch.log10((images - rebuilt).double().square().mean((1, 2, 3)) + 1e-10)


def ssim(images: Tensor, rebuilt: Tensor, *, window: int = 11, sigma: float = 1.5) -> Tensor:
    """Structural similarity of pictures in [0, 1], [N, C, H, W] each (Wang et al. 2004, equation 13).

    At every position and channel, with means m, variances v and covariance c under a Gaussian window around it::

        (2 m1 m2 + 0.01²) (2 c + 0.03²) / ((m1² + m2² + 0.01²) (v1 + v2 + 0.03²))

    Args:
        window: side of the Gaussian window; pictures smaller than that use the largest odd window that fits.
        sigma: standard deviation of the Gaussian, in pixels.

    Returns:
        One value per image, the mean over channels and positions: float64 [N], from -1 to 1.
    """
    shortest = min(images.shape[-2:])
    side = min(window, shortest - (shortest + 1) % 2)
    offsets = torch.arange(side, dtype=torch.float64) - side // 2
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = torch.outer(weights, weights)[None, None] / weights.sum() ** 2

    def local_mean(x: Tensor) -> Tensor:
        return F.conv2d(x.flatten(0, 1)[:, None], kernel).unflatten(0, x.shape[:2])[:, :, 0]

    x, y = images.double(), rebuilt.double()
    mean_x, mean_y = local_mean(x), local_mean(y)
    variances = local_mean(x * x) - mean_x**2 + local_mean(y * y) - mean_y**2
    covariance = local_mean(x * y) - mean_x * mean_y
    numerator = (2 * mean_x * mean_y + 0.01**2) * (2 * covariance + 0.03**2)
    return (numerator / ((mean_x**2 + mean_y**2 + 0.01**2) * (variances + 0.03**2))).mean((1, 2, 3))


@torch.no_grad()
def level_shares(decoder: Decoder, maps: list[Tensor], size: tuple[int, int] | torch.Size) -> dict[str, float]:
    """What each level contributes to the reconstruction.

    level_share_L: mean change of the pixels when level L's map is replaced by its mean, as a share of the sum over levels.

    Args:
        maps: the encoder's feature maps, each [N, C_l, H_l, W_l].
        size: height and width of the images.

    Returns:
        Metrics by name; empty for a decoder with one level.
    """
    if len(decoder.levels) < 2:
        return {}
    full = decoder(maps, size)
    changes = {}
    for level in decoder.levels:
        without = [mean_map(level_map) if index == level else level_map for index, level_map in enumerate(maps)]
        changes[level] = float((decoder(without, size) - full).abs().mean())
    total = sum(changes.values())
    return {f"level_share_{level}": change / total if total else 0.0 for level, change in changes.items()}


@torch.no_grad()
def rebuild_from_level(decoder: Decoder, maps: list[Tensor], level: int, size: tuple[int, int] | torch.Size) -> Tensor:
    """Reconstructs pixels [N, C, H, W] from one level; the maps of all other levels are replaced by their mean."""
    return decoder([level_map if index == level else mean_map(level_map) for index, level_map in enumerate(maps)], size)


def mean_map(maps: Tensor) -> Tensor:
    """Feature maps [N, C_l, H_l, W_l] in which every cell is the mean over images and cells."""
    return maps.mean((0, 2, 3), keepdim=True).expand_as(maps)


# ---------------------------------------------------------------------------------------------------- pictures


def restore_patch_statistics(rebuilt: Tensor, images: Tensor, patch: int) -> Tensor:
    """Gives normalized patches [N, C, H, W] the mean and variance of the images' patches: inverts `normalize_patches`.

    Args:
        patch: side of a patch, in pixels.
    """
    n, c, h, w = images.shape
    shape = (n, c, h // patch, patch, w // patch, patch)
    variance, mean = torch.var_mean(images.reshape(shape), dim=(1, 3, 5), keepdim=True, correction=0)
    return (rebuilt.reshape(shape) * (variance + 1e-6).sqrt() + mean).reshape(n, c, h, w)


def row_of_images(images: Tensor, *, min_side: int = 128, gap: int = 4) -> np.ndarray:
    """Images [N, C, H, W] in [0, 1] side by side, as uint8 [H, W, 3].

    Args:
        min_side: smaller images are enlarged by a whole factor to at least this many pixels.
        gap: pixels of white between images.
    """
    images = to_rgb(images)
    factor = -(-min_side // min(images.shape[-2:]))
    images = images.clamp(0, 1).repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    images = F.pad(images, (gap // 2,) * 4, value=1.0)
    return to_uint8(torch.cat(list(images), dim=2)[None])[0]


def to_rgb(images: Tensor) -> Tensor:
    """Images [N, C, H, W] with three channels, [N, 3, H, W]: unchanged if C is 3, else the first channel as gray."""
    return images if images.shape[1] == 3 else images[:, :1].expand(-1, 3, -1, -1)


def to_uint8(images: Tensor) -> np.ndarray:
    """Images [N, 3, H, W] in [0, 1] as uint8 [N, H, W, 3]."""
    return (images.clamp(0, 1).permute(0, 2, 3, 1) * 255).round().byte().numpy()
