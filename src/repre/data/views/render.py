"""Turns a batch of decoded images into the views of a recipe, on the device of the pixels.

The parameters of a view are drawn in `augmentations`, and applied in `geometry` (crop and resize) and `color`.

    B  images in the batch    C  channels    S  side of a view    K  side of the canvas
"""

import torch
from torch import Tensor

from repre.data.views.augmentations import ViewConfig, ViewParameters, draw
from repre.data.views.color import apply_color, normalize
from repre.data.views.geometry import chunks, crop_resize, resample
from repre.data.views.patch_masks import draw_masks
from repre.data.views.random_streams import Operation, RandomStreams
from repre.data.views.view_recipes import ViewsConfig
from repre.errors import UserError
from repre.types import Batch, Views


def make_views(batch: Batch, config: ViewsConfig, *, seed: int, device: torch.device | str) -> Views:
    """Makes all views of a batch, and their targets, on the device. They are a function of (seed, epoch, view, position).

    The decoded pixels are sent to the device once. With `target="view"` the targets are the views themselves, not copies.

    Raises:
        UserError: the config does not fit the pixels' type or channels.
    """
    config.range_of(batch.pixels.dtype)
    pixels, sizes = batch.pixels.to(device, non_blocking=True), batch.sizes.cpu()
    streams = RandomStreams(seed=seed, epoch=batch.epoch, positions=batch.positions)
    globals_, locals_ = [config.first, config.second], [config.local] * config.n_local
    images, targets, masks = [], [], []
    for number, view in enumerate(globals_ + locals_):
        is_global = number < len(globals_)
        parameters = draw(view, sizes, streams, view=number)
        size = config.size if is_global else config.local_size
        image, clean = _render(pixels, parameters, view, config, size, clean=is_global and config.target == "clean")
        images.append(image)
        if is_global:
            targets.append(image if clean is None else clean)
        if is_global and config.mask_ratio > 0:
            patches = (size // config.mask_patch) ** 2
            numbers = streams.uniforms(Operation.PATCH_MASK, patches, view=number)
            mask = draw_masks(numbers, size=size, patch=config.mask_patch, ratio=config.mask_ratio)
            masks.append(mask.to(device, non_blocking=True))
    return Views(images=images, targets=targets, n_global=len(globals_), masks=masks or None)


def random_view(
    batch: Batch, view: ViewConfig, config: ViewsConfig, *, seed: int, device: torch.device | str
) -> Tensor:
    """Makes one normalized view of every image for supervised training, [B, C, S, S].

    Args:
        view: how the view is drawn.
        config: size, normalization and value range.
    """
    pixels, sizes = batch.pixels.to(device, non_blocking=True), batch.sizes.cpu()
    streams = RandomStreams(seed=seed, epoch=batch.epoch, positions=batch.positions)
    parameters = draw(view, sizes, streams)
    return _render(pixels, parameters, view, config, config.size, clean=False)[0]


def _render(
    pixels: Tensor, parameters: ViewParameters, view: ViewConfig, config: ViewsConfig, size: int, *, clean: bool
) -> tuple[Tensor, Tensor | None]:
    """One normalized view of every image, [B, C, S, S], and with `clean` the same before its colors are changed."""
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
    """Makes the view for evaluations: short side resized to size / crop_pct (bicubic), center crop, normalized.

    Equal to torchvision's Resize and CenterCrop, on the device of the pixels.

    Args:
        pixels: canvases [B, C, K, K].
        sizes: height and width of every image, [B, 2].
        size: side S of the view.
        config: normalization and value range.
        crop_pct: side of the crop over the short side of the resized image (timm's name).

    Returns:
        Normalized views, [B, C, S, S].
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
    """Undoes the normalization of images [B, C, S, S], for pictures: float32 in [0, 1]."""
    mean, std = (t.to(images.device) for t in config.statistics(images.shape[1]))
    return (images.float() * std + mean).clamp_(0, 1)
