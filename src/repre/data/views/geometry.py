"""Cut a box out of every image of a batch and resize it, where the pixels are.

Two implementations of one formula, antialiased as PIL and torchvision do it: on the CPU image by image, on an
accelerator as two batched matrix products whose matrices are made there from the boxes alone.

    B  images in the batch        C  channels
    S  side of the view           K  side of the canvas
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from repre.data.views.params import Filter, Range
from repre.utils.amp import autocast


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
    rounded: bool = True,
) -> Tensor:
    """Resize every box to `grid` (height, width) pixels and keep the S x S window at `offset` (top, left) of it.

    All of boxes [B, 4], grid [B, 2], offset [B, 2], flip [B] lie on the CPU. Two implementations, because on the CPU
    interpolating image by image is 2 (96 -> 64) to 13 (448 -> 224) times as fast as multiplying dense matrices. There uint8
    may be rounded to uint8, as Pillow does, which is 5 times as fast again with the channels last.
    """
    inside = (offset >= 0).all() and (offset + size <= grid).all()
    assert inside, "the window has to lie within the grid"
    low, high = value_range
    way: Callable[..., Tensor] = _resample_dense
    if pixels.device.type == "cpu":
        way = partial(_resample_loop, rounded=rounded and high - low >= 255)  # a narrower range would show it
    return way(pixels, boxes, grid, offset, flip, size, filter).sub_(low).div_(high - low).clamp_(0, 1)


def _resample_loop(
    pixels: Tensor,
    boxes: Tensor,
    grid: Tensor,
    offset: Tensor,
    flip: Tensor,
    size: int,
    filter: Filter,
    *,
    rounded: bool,
) -> Tensor:
    bytewise = rounded and pixels.dtype == torch.uint8
    out = torch.empty(len(pixels), pixels.shape[1], size, size, dtype=torch.uint8 if bytewise else None)
    rows = zip(boxes.tolist(), grid.tolist(), offset.tolist(), flip.tolist())
    for i, ((top, left, height, width), shape, (y, x), mirrored) in enumerate(rows):
        box = pixels[i : i + 1, :, top : top + height, left : left + width]
        if not bytewise:
            box = box.to(torch.float32, memory_format=torch.contiguous_format)
        view = F.interpolate(box, shape, mode=filter, antialias=True)[0, :, y : y + size, x : x + size]
        out[i] = view.flip(-1) if mirrored else view
    return out.to(torch.get_default_dtype()) if bytewise else out


def _resample_dense(
    pixels: Tensor, boxes: Tensor, grid: Tensor, offset: Tensor, flip: Tensor, size: int, filter: Filter
) -> Tensor:
    numbers = torch.cat([boxes, grid, offset, flip[:, None].long()], dim=1).to(pixels.device, non_blocking=True)
    top, left, height, width, grid_y, grid_x, y, x, mirrored = numbers.unbind(1)
    rows = _resize_weights(top, height, grid_y, y, torch.zeros_like(y), size, pixels.shape[2], filter)
    columns = _resize_weights(left, width, grid_x, x, mirrored, size, pixels.shape[3], filter)
    return separable(rows, pixels.to(torch.float32, memory_format=torch.contiguous_format), columns)


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


def separable(rows: Tensor, images: Tensor, columns: Tensor) -> Tensor:
    """rows [B, S, K] x images [B, C, K, K] x columns' [B, S, K], in float32 also where autocast is on."""
    with autocast(images.device, torch.float32):
        return rows[:, None] @ images @ columns[:, None].mT  # [B, C, S, S]
