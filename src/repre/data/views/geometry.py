"""Cuts a box out of every image of a batch and resizes it, on the device of the pixels.

Two implementations of one formula, antialiased like PIL's and torchvision's: on the CPU image by image; on an accelerator as
two batched matrix products, whose matrices are made on the device from the boxes alone. On CUDA `fused` is a third.

    B  images in the batch                C  channels
    H, W  height and width of the view    K  side of the canvas
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from repre.data.views.augmentations import Filter, Range
from repre.utils.amp import autocast
from repre.utils.image_size import Size, height_and_width


def chunks(count: int, values: int, device: torch.device) -> Iterator[slice]:
    """Slices of a batch of `count` images of `values` values each: the whole batch, or about 4 MiB a slice on the CPU.

    Small slices stay in the CPU's cache, which makes the passes over the images a third faster (224 x 224, 3 channels).
    """
    step = max(1, 2**20 // values) if device.type == "cpu" else count
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def crop_resize(
    pixels: Tensor, boxes: Tensor, flip: Tensor, *, size: Size, value_range: Range, filter: Filter = "bilinear"
) -> Tensor:
    """Cuts a box out of every canvas and resizes it to H x W, antialiased like torchvision's resized_crop.

    Args:
        pixels: canvases [B, C, K, K].
        boxes: top, left, height, width in pixels, [B, 4].
        flip: whether to mirror the view, bool [B].
        size: (H, W) of the views, or the side of squares.
        value_range: pixel values that become 0 and 1.
        filter: PIL's filter of that name.

    Returns:
        Views in [0, 1], float32 [B, C, H, W].
    """
    shape = height_and_width(size)
    grid = torch.tensor(shape).expand(len(boxes), 2)
    return resample(
        pixels, boxes, grid, torch.zeros_like(grid), flip, shape=shape, value_range=value_range, filter=filter
    )


def resample(
    pixels: Tensor,
    boxes: Tensor,
    grid: Tensor,
    offset: Tensor,
    flip: Tensor,
    *,
    shape: tuple[int, int],
    value_range: Range,
    filter: Filter,
    rounded: bool = True,
) -> Tensor:
    """Resizes every box to `grid` (height, width) pixels and keeps its window of `shape` (H, W) at `offset` (top, left).

    boxes [B, 4], grid [B, 2], offset [B, 2] and flip [B] are on the CPU. There are two implementations because on the CPU
    interpolating image by image is 2 (96 -> 64) to 13 (448 -> 224) times as fast as products with dense matrices. With
    `rounded`, the CPU keeps uint8 as uint8, as Pillow does, which is 5 times as fast again with channels last.
    """
    inside = (offset >= 0).all() and (offset + torch.tensor(shape) <= grid).all()
    assert inside, "the window has to lie within the grid"
    low, high = value_range
    method: Callable[..., Tensor] = _resample_dense
    if pixels.device.type == "cpu":
        method = partial(_resample_loop, rounded=rounded and high - low >= 255)  # rounding shows in a narrower range
    return method(pixels, boxes, grid, offset, flip, shape, filter).sub_(low).div_(high - low).clamp_(0, 1)


def _resample_loop(
    pixels: Tensor,
    boxes: Tensor,
    grid: Tensor,
    offset: Tensor,
    flip: Tensor,
    shape: tuple[int, int],
    filter: Filter,
    *,
    rounded: bool,
) -> Tensor:
    view_height, view_width = shape
    bytewise = rounded and pixels.dtype == torch.uint8
    out = torch.empty(len(pixels), pixels.shape[1], *shape, dtype=torch.uint8 if bytewise else None)
    rows = zip(boxes.tolist(), grid.tolist(), offset.tolist(), flip.tolist())
    for i, ((top, left, height, width), resized, (y, x), mirrored) in enumerate(rows):
        box = pixels[i : i + 1, :, top : top + height, left : left + width]
        if not bytewise:
            box = box.to(torch.float32, memory_format=torch.contiguous_format)
        view = F.interpolate(box, resized, mode=filter, antialias=True)[0, :, y : y + view_height, x : x + view_width]
        out[i] = view.flip(-1) if mirrored else view
    return out.to(torch.get_default_dtype()) if bytewise else out


def _resample_dense(
    pixels: Tensor, boxes: Tensor, grid: Tensor, offset: Tensor, flip: Tensor, shape: tuple[int, int], filter: Filter
) -> Tensor:
    numbers = torch.cat([boxes, grid, offset, flip[:, None].long()], dim=1).to(pixels.device, non_blocking=True)
    top, left, height, width, grid_y, grid_x, y, x, mirrored = numbers.unbind(1)
    rows = _resize_weights(top, height, grid_y, y, torch.zeros_like(y), shape[0], pixels.shape[2], filter)
    columns = _resize_weights(left, width, grid_x, x, mirrored, shape[1], pixels.shape[3], filter)
    return separable(rows, pixels.to(torch.float32, memory_format=torch.contiguous_format), columns)


def _resize_weights(
    start: Tensor, length: Tensor, grid: Tensor, offset: Tensor, flip: Tensor, size: int, side: int, filter: Filter
) -> Tensor:
    """Weight of every canvas pixel in every of `size` view pixels along one axis, [B, size, K]; 0 outside the box."""
    start, length, grid, offset, flip = (v[:, None, None] for v in (start, length, grid, offset, flip))
    at = torch.arange(size, device=start.device)[None, :, None]
    at = offset + torch.where(flip > 0, size - 1 - at, at)
    step = length.float() / grid
    pixel = torch.arange(side, device=start.device) - start  # relative to the box
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


def separable(rows: Tensor, images: Tensor, columns: Tensor) -> Tensor:
    """Computes rows [B, H, K] @ images [B, C, K, K] @ columns [B, W, K] transposed, in float32 even under autocast."""
    with autocast(images.device, torch.float32):
        return rows[:, None] @ images @ columns[:, None].mT  # [B, C, H, W]
