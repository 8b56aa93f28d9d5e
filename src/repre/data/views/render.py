"""Turns a batch of decoded images into the views of a recipe, on the device of the pixels.

The parameters of a view are drawn in `augmentations`, and applied in `geometry` (crop and resize) and `color`, or on CUDA
in `fused`.

    B  images in the batch    C  channels    H, W  height and width of a view    K  side of the canvas
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from repre.data.views.augmentations import Range, ViewConfig, ViewParameters, draw, draw_all
from repre.data.views.color import apply_color, normalize
from repre.data.views.fused import Rendered, ViewGroup, fused_views, fused_window, is_fused
from repre.data.views.geometry import chunks, crop_resize, resample
from repre.data.views.patch_masks import draw_masks
from repre.data.views.random_streams import RandomStreams
from repre.data.views.view_recipes import ViewsConfig, of_shape
from repre.errors import UserError
from repre.types import Batch, Canvases, MixedCanvases, Views
from repre.utils.image_size import Size, height_and_width


def draw_views(config: ViewsConfig, sizes: Tensor, positions: Tensor, *, epoch: int, seed: int) -> list[ViewParameters]:
    """Draws the parameters of all views of a batch: global ones first, which also get the patches to hide.

    They are a function of (seed, epoch, view, position): drawing a batch in parts draws the same.

    Args:
        config: the views.
        sizes: height and width of every image, [B, 2].
        positions: position of every sample in the order of its epoch, [B].
        epoch: epoch, counted from 0.
        seed: seed of the run.
    """
    streams = RandomStreams(seed=seed, epoch=epoch, positions=positions)
    drawn = draw_all(config.views, sizes, streams)
    if config.mask.kind != "none":
        hidden = draw_masks(
            streams,
            kind=config.mask.kind,
            ratio=config.mask.ratio,
            image_share=config.mask.image_share,
            grid=config.mask_grid,
            views=range(config.n_global),
        )
        drawn[: config.n_global] = [replace(view, hidden=mask) for view, mask in zip(drawn, hidden)]
    return drawn


def make_views(
    batch: Batch,
    config: ViewsConfig,
    *,
    seed: int,
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
    with_crops: bool = False,
) -> Views:
    """Makes all views of a batch, and their targets, on the device. They are a function of (seed, epoch, view, position).

    The decoded pixels are sent to the device once. With `target="view"` the targets are the views themselves, not copies.

    Args:
        batch: decoded images; parameters that it brings are not drawn again.
        config: the views.
        seed: seed of the run.
        device: where the views are made.
        dtype: type of the views and targets, which are rounded to it at the very end.
        with_crops: also return where each view was cut out.

    Raises:
        UserError: the config does not fit the pixels' type or channels.
    """
    drawn, configs = batch.parameters, config.views
    if drawn is None:
        drawn = draw_views(config, batch.sizes, batch.positions, epoch=batch.epoch, seed=seed)
    assert len(drawn) == len(configs), "the batch brings parameters of other views"
    pixels = batch.pixels.to(device, non_blocking=True)
    clean = config.target == "clean"
    n = config.n_global
    groups = [ViewGroup(config.size, drawn[:n], configs[:n], clean)]
    if config.n_local > 0:
        groups.append(ViewGroup(config.local_size, drawn[n:], configs[n:]))
    rendered = _render_canvases(pixels, groups, config, dtype=dtype)
    images = [image for group in rendered for image in group.images]
    hidden = [view.hidden for view in drawn if view.hidden is not None]
    return Views(
        images=images,
        targets=images[:n] if rendered[0].clean is None else list(rendered[0].clean),
        n_global=n,
        masks=[mask.to(device, non_blocking=True) for mask in hidden] or None,
        masked=torch.cat(hidden).flatten().nonzero().flatten().to(device, non_blocking=True) if hidden else None,
        crops=[_crop(view, batch.sizes).to(device, non_blocking=True) for view in drawn] if with_crops else None,
    )


def _crop(view: ViewParameters, sizes: Tensor) -> Tensor:
    """The box of a view as shares of the image and whether it is flipped, float32 [B, 5]; see `Views.crops`."""
    sides = sizes.cpu().repeat(1, 2)  # height, width, height, width
    return torch.cat([view.boxes / sides, view.flip[:, None]], dim=1).float()


def random_view(
    batch: Batch, view: ViewConfig, config: ViewsConfig, *, seed: int, device: torch.device | str
) -> Tensor:
    """Makes one normalized view of every image for supervised training, [B, C, H, W].

    Args:
        view: how the view is drawn.
        config: size, normalization and value range.
    """
    streams = RandomStreams(seed=seed, epoch=batch.epoch, positions=batch.positions)
    parameters = draw(of_shape(view, config.shape), batch.sizes, streams)
    group = ViewGroup(config.size, [parameters], [view])
    pixels = batch.pixels.to(device, non_blocking=True)
    return _render_canvases(pixels, [group], config)[0].images[0]


def _render_canvases(
    pixels: Canvases, groups: Sequence[ViewGroup], config: ViewsConfig, *, dtype: torch.dtype = torch.float32
) -> list[Rendered]:
    """Renders groups of views, each image in its own type; see `render`."""
    if isinstance(pixels, Tensor):
        value_range, (mean, std) = config.range_of(pixels.dtype), config.statistics(pixels.shape[1])
        return render(pixels, groups, value_range=value_range, mean=mean, std=std, dtype=dtype)
    parts = [
        _render_canvases(canvases, [_of_rows(group, rows) for group in groups], config, dtype=dtype)
        for canvases, rows in zip(pixels.groups, pixels.rows)
    ]
    return [
        Rendered(
            _in_order([part.images for part in of_group], pixels.rows, dim=1),
            _in_order([part.clean for part in of_group if part.clean is not None], pixels.rows, dim=1),
        )
        for of_group in zip(*parts)
    ]


def _of_rows(group: ViewGroup, rows: Tensor) -> ViewGroup:
    return group._replace(parameters=[parameters[rows] for parameters in group.parameters])


def _in_order(parts: Sequence[Tensor], rows: Sequence[Tensor], *, dim: int) -> Any:
    """Tensors of some images each as one of all images, in their order along `dim`; None without parts."""
    if not parts:
        return None
    order = torch.cat([*rows]).argsort().to(parts[0].device, non_blocking=True)
    return torch.cat([*parts], dim).index_select(dim, order)


def render(
    pixels: Tensor,
    groups: Sequence[ViewGroup],
    *,
    value_range: Range,
    mean: Tensor,
    std: Tensor,
    dtype: torch.dtype = torch.float32,
) -> list[Rendered]:
    """Renders groups of views on the device of the pixels.

    Args:
        pixels: canvases [B, C, K, K].
        groups: the views of each size.
        value_range: pixel values that become 0 and 1.
        mean, std: of every channel, [C, 1, 1] on the CPU.
        dtype: type of the views, which are rounded to it at the very end.
    """
    if is_fused(pixels.device):
        return fused_views(pixels, groups, value_range=value_range, mean=mean, std=std, dtype=dtype)
    (batch, channels), device = pixels.shape[:2], pixels.device
    mean, std = (t.to(device, non_blocking=True) for t in (mean, std))
    rendered = []
    for group in groups:
        shape = height_and_width(group.size)
        images = torch.empty(len(group.parameters), batch, channels, *shape, dtype=dtype, device=device)
        clean = torch.empty_like(images) if group.clean else None
        for number, (whole, config) in enumerate(zip(group.parameters, group.configs)):
            for rows in chunks(batch, channels * math.prod(shape), device):
                part = whole[rows]
                image = crop_resize(
                    pixels[rows], part.boxes, part.flip, size=shape, value_range=value_range, filter=config.filter
                )
                if clean is not None:
                    clean[number, rows] = normalize(image.clone(), mean, std)
                images[number, rows] = normalize(apply_color(image, part, config), mean, std)
        rendered.append(Rendered(images, clean))
    return rendered


def center_view(
    pixels: Canvases, sizes: Tensor, *, size: Size, config: ViewsConfig, crop_pct: float = 224 / 256
) -> Tensor:
    """Makes the view for evaluations: the image resized (bicubic) until it just covers H / crop_pct x W / crop_pct pixels,
    whatever its aspect, then a center crop, normalized.

    For squares that brings the short side to S / crop_pct: equal to torchvision's Resize and CenterCrop. It is made on the
    device of the pixels.

    Args:
        pixels: canvases [B, C, K, K].
        sizes: height and width of every image, [B, 2].
        size: (H, W) of the view, or the side S of a square.
        config: normalization and value range.
        crop_pct: side of the crop over that of the resized image, on the axis where the image is shorter (timm's name).

    Returns:
        Normalized views, [B, C, H, W].
    """
    if not 0 < crop_pct <= 1:
        raise UserError(f"crop_pct={crop_pct}: give a share of the short side above 0, at most 1 (all of it)")
    if isinstance(pixels, MixedCanvases):
        views = [
            center_view(canvases, sizes.cpu()[rows], size=size, config=config, crop_pct=crop_pct)
            for canvases, rows in zip(pixels.groups, pixels.rows)
        ]
        whole: Tensor = _in_order(views, pixels.rows, dim=0)
        return whole
    sizes, shape = sizes.cpu(), height_and_width(size)
    cover = torch.tensor([round(side / crop_pct) for side in shape])
    axis = (cover[1] * sizes[:, 0] > cover[0] * sizes[:, 1]).long()[:, None]  # where the image is shorter for the view
    grid = cover[axis] * sizes // sizes.gather(1, axis)
    boxes = torch.cat([torch.zeros_like(sizes), sizes], dim=1)
    offset = ((grid - torch.tensor(shape)) / 2).round().long()
    flip = torch.zeros(len(sizes), dtype=torch.bool)
    value_range = config.range_of(pixels.dtype)
    mean, std = config.statistics(pixels.shape[1])
    if is_fused(pixels.device):
        return fused_window(pixels, boxes, grid, offset, shape=shape, value_range=value_range, mean=mean, std=std)
    images = resample(
        pixels, boxes, grid, offset, flip, shape=shape, value_range=value_range, filter="bicubic", rounded=False
    )
    return normalize(images, *(t.to(pixels.device, non_blocking=True) for t in (mean, std)))


def denormalize(images: Tensor, config: ViewsConfig) -> Tensor:
    """Undoes the normalization of images [B, C, H, W], for pictures: float32 in [0, 1]."""
    mean, std = (t.to(images.device) for t in config.statistics(images.shape[1]))
    return (images.float() * std + mean).clamp_(0, 1)
