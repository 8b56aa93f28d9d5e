"""Renders views with Triton kernels: a handful of launches for all views of one size, whatever the batch.

The parameters of all images and views travel in one small table; the kernels branch by its rows. Nothing waits for the
device. For CUDA with Triton; other devices take the paths of `geometry` and `color`, of which these kernels are equals.

    B  images in the batch    C  channels    H, W  height and width of a view    K  side of the canvas
    V  views of one size      R  rows of the table: one per view and image, views outermost
"""

import math
import warnings
from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from repre.data.views.augmentations import Range, ViewConfig
from repre.types import ViewParameters
from repre.utils.image_size import Size, height_and_width

SCRATCH = 2**28
"""Bytes of memory for what lies between two kernels; views beyond it are rendered in several turns."""
NO_CHANGE = torch.tensor([1.0, 1.0, 1.0, 0.0])
ACROSS, PIXELS = 128, 512
"""Size of a program: values of each of the four rows of the horizontal resize, pixels of the other passes."""


class ViewGroup(NamedTuple):
    """Views of one size.

    Attributes:
        size: (H, W) of the views, or the side of squares.
        parameters: of every view.
        configs: filter and threshold of every view.
        clean: also return the views before their colors are changed.
    """

    size: Size
    parameters: Sequence[ViewParameters]
    configs: Sequence[ViewConfig]
    clean: bool = False


class Rendered(NamedTuple):
    """Normalized views of one group, each [V, B, C, H, W]; `clean` is None unless the group asks for it."""

    images: Tensor
    clean: Tensor | None


class _Work(NamedTuple):
    """What the kernels of one group have to do.

    Attributes:
        table: parameters of the kernels, [R, columns], on the CPU.
        views: V.
        shape: (H, W) of the views.
        height: at least as many rows as any box has.
        rounded: crops of bytes are rounded to bytes after each axis, as on the CPU.
        recolored: some image has a color change or a blur.
        blurred: some image has a blur.
        clean: see `ViewGroup`.
    """

    table: Tensor
    views: int
    shape: tuple[int, int]
    height: int
    rounded: bool
    recolored: bool = False
    blurred: bool = False
    clean: bool = False


@cache
def kernels() -> ModuleType | None:
    """The module of kernels; None where Triton or the compiler that it needs is missing, with a warning."""
    try:
        import triton

        triton.runtime.driver.active.get_current_target()  # builds Triton's own helper, for which it needs a C compiler
        from repre.data.views import triton_kernels
    except Exception as error:  # whatever Triton raises: views are made without it, more slowly
        warnings.warn(f"Triton does not work, so making views is several times slower: {error}", stacklevel=2)
        return None
    return triton_kernels


def is_fused(device: torch.device) -> bool:
    """Whether views on the device are rendered here."""
    return device.type == "cuda" and kernels() is not None


def fused_views(
    pixels: Tensor,
    groups: Sequence[ViewGroup],
    *,
    value_range: Range,
    mean: Tensor,
    std: Tensor,
    dtype: torch.dtype = torch.float32,
) -> list[Rendered]:
    """Renders groups of views, rounded to `dtype` at the very end.

    Args:
        pixels: canvases [B, C, K, K]; channels last in memory is fastest.
        groups: the views of each size.
        value_range: pixel values that become 0 and 1.
        mean, std: of every channel, [C, 1, 1] on the CPU.
        dtype: type of the views.
    """
    rounded = pixels.dtype == torch.uint8 and value_range[1] - value_range[0] >= 255
    work = []
    for group in groups:
        parts, shape = group.parameters, height_and_width(group.size)
        grid = torch.tensor(shape).expand(len(pixels), 2)
        offset = torch.zeros_like(grid)
        table = torch.cat([_rows(part, config, grid, offset) for part, config in zip(parts, group.configs)])
        blurred = any(bool((part.sigma > 0).any()) for part in parts)
        changed = any(bool((part.factors != NO_CHANGE).any() | part.grayscale.any()) for part in parts)
        height = max(int(part.boxes[:, 2].max()) for part in parts)
        work.append(_Work(table, len(parts), shape, height, rounded, changed or blurred, blurred, group.clean))
    return _run(pixels, work, value_range, mean, std, dtype)


def fused_window(
    pixels: Tensor,
    boxes: Tensor,
    grid: Tensor,
    offset: Tensor,
    *,
    shape: tuple[int, int],
    value_range: Range,
    mean: Tensor,
    std: Tensor,
) -> Tensor:
    """Resizes boxes [B, 4] bicubically to grids [B, 2], and cuts a window of `shape` (H, W) at `offset` [B, 2]:
    [B, C, H, W]."""
    count = len(boxes)
    no = torch.zeros(count, dtype=torch.bool)
    order, factors = torch.arange(4).expand(count, 4), NO_CHANGE.expand(count, 4)
    nothing = ViewParameters(boxes, no, order, factors, grayscale=no, sigma=torch.zeros(count), solarize=no)
    table = _rows(nothing, ViewConfig(filter="bicubic"), grid, offset)
    work = _Work(table, 1, shape, int(boxes[:, 2].max()), rounded=False)
    return _run(pixels, [work], value_range, mean, std, torch.float32)[0].images[0]


def _rows(part: ViewParameters, config: ViewConfig, grid: Tensor, offset: Tensor) -> Tensor:
    """One view's rows of the table, float32 [B, columns]: in the order of the columns of `triton_kernels`."""
    cubic = torch.full((len(grid), 1), float(config.filter == "bicubic"))
    threshold = torch.where(part.solarize, config.threshold, math.inf)
    color = torch.stack([part.grayscale, part.sigma, threshold], dim=1)
    factors = part.factors.gather(1, part.order)
    padding = cubic.expand(-1, 3)  # rows of 96 bytes are aligned
    return torch.cat([part.boxes, grid, offset, part.flip[:, None], cubic, part.order, factors, color, padding], dim=1)


def _run(
    pixels: Tensor, groups: list[_Work], value_range: Range, mean: Tensor, std: Tensor, dtype: torch.dtype
) -> list[Rendered]:
    flat = torch.cat([*(group.table.flatten() for group in groups), mean.flatten(), std.flatten()])
    host = torch.empty(flat.shape, pin_memory=pixels.is_cuda).copy_(flat)
    tables = host.to(pixels.device, non_blocking=True).split(
        [*(group.table.numel() for group in groups), 2 * len(mean)]
    )
    with torch.cuda.device_of(pixels):
        return [_launch(pixels, group, table, tables[-1], value_range, dtype) for group, table in zip(groups, tables)]


def _launch(
    pixels: Tensor, work: _Work, table: Tensor, statistics: Tensor, value_range: Range, dtype: torch.dtype
) -> Rendered:
    """Launches the kernels of one group: two if no color changes, three with color changes, five with a blur."""
    triton_kernels = kernels()
    assert triton_kernels is not None
    (batch, channels), (rows_of_view, width), device = pixels.shape[:2], work.shape, pixels.device
    area, values = rows_of_view * width, width * channels
    low, span = float(value_range[0]), float(value_range[1] - value_range[0])
    height = -(-work.height // 64) * 64  # few different sizes, which the allocator finds again
    group = 2 ** (-(-channels // 3) - 1).bit_length()
    block = max(32, PIXELS // group)
    shape = {"HEIGHT": rows_of_view, "WIDTH": width, "CHANNELS": channels}
    tile = {"CHANNELS": channels, "GROUP": group, "BLOCK": block}
    across, tiles = -(-values // ACROSS), -(-area // block)
    tall, planes = across * -(-work.height // 4), -(-channels * area // PIXELS)

    def empty(*lengths: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(lengths, dtype=dtype, device=device)

    images = empty(work.views, batch, channels, *work.shape, dtype=dtype)
    clean = torch.empty_like(images) if work.clean else None
    kept = torch.uint8 if work.rounded else torch.float32
    bytes_of_row = values * (height * kept.itemsize + 4 * rows_of_view * (work.recolored + work.blurred))
    total = work.views * batch
    turn = min(total, max(1, SCRATCH // bytes_of_row))
    lines = empty(turn, height * values, dtype=kept)
    drafts = [empty(turn, rows_of_view * values) for _ in range(work.recolored + work.blurred)]
    sums = empty(turn * tiles)
    for first in range(0, total, turn):
        rows = min(turn, total - first)
        triton_kernels.resize_horizontally[(rows * tall,)](
            pixels, table, lines, tall, first, batch, height, *pixels.stride(),
            ROUNDED=work.rounded, BLOCK=ACROSS, **shape,
        )  # fmt: skip
        draft = drafts[0] if work.recolored else images  # never read or written where there is none
        triton_kernels.resize_vertically[(rows * tiles,)](
            lines, table, statistics, images, images if clean is None else clean, draft, sums, tiles, first, height,
            low, span, ROUNDED=work.rounded, RECOLORED=work.recolored, CLEAN=work.clean,
            HEIGHT=rows_of_view, WIDTH=width, **tile,
        )  # fmt: skip
        if work.recolored:
            power = 2 ** (tiles - 1).bit_length()
            triton_kernels.recolor[(rows * tiles,)](
                draft, sums, table, statistics, images, tiles, first, AREA=area, TILES=power, **tile
            )
        if work.blurred:
            for source, target, vertical in ((draft, drafts[1], False), (drafts[1], images, True)):
                triton_kernels.blur[(rows * planes,)](
                    source, table, statistics, target, planes, first,
                    VERTICAL=vertical, BLOCK=PIXELS, **shape,
                )  # fmt: skip
    return Rendered(images, clean)
