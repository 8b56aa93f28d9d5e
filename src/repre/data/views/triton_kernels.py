"""Triton kernels that render views: resize, color changes, blur, solarize and normalize, each image by its own parameters.

Importing this needs triton; `fused` does so only on CUDA, launches the kernels and says which memory they use. The formulas
are those of `geometry` and `color`. Every kernel reads the parameters of its image from a row of the table, so a branch is
the same for all threads of a program, and nothing waits for the host. Offsets within an image are 32-bit, of images 64-bit.

Color changes need all channels of a pixel at once. Channels are held as three tiles [G, P] of G channels and P pixels:
one channel each for RGB (G = 1), a third of the channels, padded, otherwise.
"""
# mypy: allow-untyped-defs

import triton
import triton.language as tl

from repre.data.views import augmentations, color

# Columns of the table, as `fused` fills it: numbers of the geometry come in pairs, vertical and horizontal.
COLUMNS = tl.constexpr(24)
START, LENGTH, GRID, OFFSET = tl.constexpr(0), tl.constexpr(2), tl.constexpr(4), tl.constexpr(6)
FLIP, CUBIC, CHANGES, FACTORS = tl.constexpr(8), tl.constexpr(9), tl.constexpr(10), tl.constexpr(14)
GRAYSCALE, SIGMA, THRESHOLD = tl.constexpr(18), tl.constexpr(19), tl.constexpr(20)

BRIGHTNESS, CONTRAST = tl.constexpr(augmentations.BRIGHTNESS), tl.constexpr(augmentations.CONTRAST)
HUE = tl.constexpr(augmentations.HUE)
RED, GREEN, BLUE = (tl.constexpr(share) for share in color.LUMA)

COUNTS = ("tiles", "first", "batch", "height", "stride_b", "stride_c", "stride_y", "stride_x")
"""Whole numbers that differ between batches; a kernel is not compiled again for them."""


# ---------------------------------------------------------------------------------------------------------------- resize


@triton.jit
def _scale(image, AXIS: tl.constexpr):
    """Canvas pixels per view pixel along an axis (0 vertical), and half the width of the filter in canvas pixels."""
    step = tl.load(image + LENGTH + AXIS) / tl.load(image + GRID + AXIS)
    support = tl.maximum(step, 1.0) * tl.where(tl.load(image + CUBIC) > 0, 2.0, 1.0)
    return step, support


@triton.jit
def _first_tap(center, support):
    return tl.ceil(center - support - 0.5).to(tl.int32)


@triton.jit
def _weight(pixel, center, step, length, cubic):
    """Weight of pixels of the box in view pixels around `center`: a tent or Keys' cubic, 0 outside the box."""
    t = tl.abs(pixel + 0.5 - center) / tl.maximum(step, 1.0)
    near, far = (1.5 * t - 2.5) * t * t + 1.0, ((2.5 - 0.5 * t) * t - 4.0) * t + 2.0
    keys = tl.where(t < 1.0, near, tl.where(t < 2.0, far, 0.0))
    weight = tl.where(cubic > 0, keys, tl.maximum(1.0 - t, 0.0))
    return tl.where((pixel >= 0) & (pixel < length), weight, 0.0)


@triton.jit
def _rows_in_use(image, HEIGHT: tl.constexpr):
    """First row of the box that the view needs, and the number of rows."""
    step, support = _scale(image, 0)
    offset = tl.load(image + OFFSET)
    first = tl.maximum(_first_tap((offset + 0.5) * step, support), 0)
    last = _first_tap((offset + HEIGHT - 0.5) * step, support) + tl.floor(2.0 * support).to(tl.int32)
    return first, tl.minimum(last, tl.load(image + LENGTH).to(tl.int32) - 1) - first + 1


@triton.jit
def _store_line(line, y, count, n, value, WIDTH: tl.constexpr, CHANNELS: tl.constexpr, ROUNDED: tl.constexpr):
    if ROUNDED:
        value = tl.floor(tl.minimum(tl.maximum(value, 0.0), 255.0) + 0.5).to(tl.int32)
    length = tl.where(y < count, WIDTH * CHANNELS, 0)
    tl.store(line + y * (WIDTH * CHANNELS) + n, value.to(line.dtype.element_ty), mask=n < length)


@triton.jit(do_not_specialize=COUNTS)
def resize_horizontally(
    canvases, table, lines, tiles, first, batch, height, stride_b, stride_c, stride_y, stride_x,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr, ROUNDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Canvases [B, C, K, K] -> the rows in use of every box, resized horizontally and flipped, [R, height, W, C].

    A program makes BLOCK values of four rows, which share their weights. Channels are innermost, so that neighbors read
    neighbors.
    """
    across: tl.constexpr = (WIDTH * CHANNELS + BLOCK - 1) // BLOCK
    row, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    image = table + (first + row) * COLUMNS
    skipped, count = _rows_in_use(image, HEIGHT)
    y = (tile // across) * 4
    if y < count:
        n = (tile % across) * BLOCK + tl.arange(0, BLOCK)
        x = tl.minimum(n // CHANNELS, WIDTH - 1)
        step, support = _scale(image, 1)
        length, cubic = tl.load(image + LENGTH + 1), tl.load(image + CUBIC)
        mirrored = tl.where(tl.load(image + FLIP) > 0, WIDTH - 1 - x, x)
        center = (tl.load(image + OFFSET + 1) + mirrored + 0.5) * step
        begin = _first_tap(center, support)
        top = tl.load(image + START).to(tl.int32) + skipped
        left = tl.load(image + START + 1).to(tl.int32)
        canvas = canvases + ((first + row) % batch).to(tl.int64) * stride_b
        source_a = canvas + (top + y) * stride_y  # rows that do not exist repeat the last one, and are not stored
        source_b = canvas + (top + tl.minimum(y + 1, count - 1)) * stride_y
        source_c = canvas + (top + tl.minimum(y + 2, count - 1)) * stride_y
        source_d = canvas + (top + tl.minimum(y + 3, count - 1)) * stride_y
        column = (n % CHANNELS) * stride_c + left * stride_x
        total = tl.full([BLOCK], 0.0, tl.float32)
        a, b, c, d = total, total, total, total
        tap, taps = 0, tl.floor(2.0 * support).to(tl.int32) + 1
        while tap < taps:
            pixel = begin + tap
            weight = _weight(pixel, center, step, length, cubic)
            at, read = column + pixel * stride_x, weight != 0.0
            a += weight * tl.load(source_a + at, mask=read, other=0).to(tl.float32)
            b += weight * tl.load(source_b + at, mask=read, other=0).to(tl.float32)
            c += weight * tl.load(source_c + at, mask=read, other=0).to(tl.float32)
            d += weight * tl.load(source_d + at, mask=read, other=0).to(tl.float32)
            total += weight
            tap += 1
        line = lines + row.to(tl.int64) * height * (WIDTH * CHANNELS)
        _store_line(line, y, count, n, a / total, WIDTH, CHANNELS, ROUNDED)
        _store_line(line, y + 1, count, n, b / total, WIDTH, CHANNELS, ROUNDED)
        _store_line(line, y + 2, count, n, c / total, WIDTH, CHANNELS, ROUNDED)
        _store_line(line, y + 3, count, n, d / total, WIDTH, CHANNELS, ROUNDED)


@triton.jit
def _to_unit(value, low, span, ROUNDED: tl.constexpr):
    if ROUNDED:
        value = tl.floor(value + 0.5)
    return tl.minimum(tl.maximum((value - low) / span, 0.0), 1.0)


@triton.jit(do_not_specialize=COUNTS)
def resize_vertically(
    lines, table, statistics, out, clean, work, sums, tiles, first, height, low, span,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr, GROUP: tl.constexpr, ROUNDED: tl.constexpr,
    RECOLORED: tl.constexpr, CLEAN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Lines [R, height, W, C] -> views in [0, 1].

    Without color changes writes `out`. Otherwise applies those before the contrast, writes `work`, and the sum of each
    program's gray values to `sums` [R, tiles], from which `recolor` takes the mean.
    """
    row, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    image = table + (first + row) * COLUMNS
    skipped, _ = _rows_in_use(image, HEIGHT)
    p = tile * BLOCK + tl.arange(0, BLOCK)
    y = tl.minimum(p // WIDTH, HEIGHT - 1)
    step, support = _scale(image, 0)
    length, cubic = tl.load(image + LENGTH), tl.load(image + CUBIC)
    center = (tl.load(image + OFFSET) + y + 0.5) * step
    begin = _first_tap(center, support)
    g = tl.arange(0, GROUP)[:, None]
    source = lines + row.to(tl.int64) * height * (WIDTH * CHANNELS) + (p % WIDTH) * CHANNELS
    a = tl.full([GROUP, BLOCK], 0.0, tl.float32)
    b, c = a, a
    total = tl.full([BLOCK], 0.0, tl.float32)
    tap, taps = 0, tl.floor(2.0 * support).to(tl.int32) + 1
    while tap < taps:
        pixel = begin + tap
        weight = _weight(pixel, center, step, length, cubic)
        at = (source + (pixel - skipped) * (WIDTH * CHANNELS))[None, :] + g
        read = ((p < HEIGHT * WIDTH) & (weight != 0.0))[None, :]
        a += weight[None, :] * tl.load(at, mask=read & (g < CHANNELS), other=0).to(tl.float32)
        b += weight[None, :] * tl.load(at + GROUP, mask=read & (g + GROUP < CHANNELS), other=0).to(tl.float32)
        c += weight[None, :] * tl.load(at + 2 * GROUP, mask=read & (g + 2 * GROUP < CHANNELS), other=0).to(tl.float32)
        total += weight
        tap += 1
    a = _to_unit(a / total[None, :], low, span, ROUNDED)
    b = _to_unit(b / total[None, :], low, span, ROUNDED)
    c = _to_unit(c / total[None, :], low, span, ROUNDED)
    if CLEAN:
        _store_normalized(clean, a, b, c, p, first + row, statistics, HEIGHT * WIDTH, CHANNELS, GROUP)
    if RECOLORED:
        a, b, c = _change_colors(a, b, c, image, 0.0, False, CHANNELS, GROUP)
        gray = _gray(a, b, c, CHANNELS, GROUP)
        tl.store(sums + tl.program_id(0), tl.sum(tl.where((p < HEIGHT * WIDTH)[None, :], gray, 0.0)))
        _store(work, a, b, c, p, row, HEIGHT * WIDTH, CHANNELS, GROUP)
    else:
        a, b, c = _solarize(a, image), _solarize(b, image), _solarize(c, image)
        _store_normalized(out, a, b, c, p, first + row, statistics, HEIGHT * WIDTH, CHANNELS, GROUP)


# ---------------------------------------------------------------------------------------------------------------- colors


@triton.jit
def _gray(a, b, c, CHANNELS: tl.constexpr, GROUP: tl.constexpr):
    """Luma of three channels, the mean of any other number, [1, P]."""
    if CHANNELS == 3:
        gray = RED * a + GREEN * b + BLUE * c
    else:
        g = tl.arange(0, GROUP)[:, None]
        shown = tl.where(g < CHANNELS, a, 0.0) + tl.where(g + GROUP < CHANNELS, b, 0.0)
        gray = tl.sum(shown + tl.where(g + 2 * GROUP < CHANNELS, c, 0.0), axis=0)[None, :] / CHANNELS
    return gray


@triton.jit
def _blend(value, factor, base):
    return tl.minimum(tl.maximum(factor * value + (1.0 - factor) * base, 0.0), 1.0)


@triton.jit
def _channel_of_hue(value, chroma, sextant):
    turned = sextant - 6.0 * tl.floor(sextant / 6.0)
    return value - chroma * tl.minimum(tl.maximum(2.0 - tl.abs(turned - 2.0), 0.0), 1.0)


@triton.jit
def _change_colors(a, b, c, image, mean, FROM_CONTRAST: tl.constexpr, CHANNELS: tl.constexpr, GROUP: tl.constexpr):
    """Applies the changes before the contrast, or the contrast and those after it, in the image's own order."""
    behind = False
    for number in tl.static_range(4):
        kind, factor = tl.load(image + CHANGES + number), tl.load(image + FACTORS + number)
        behind = behind | (kind == CONTRAST)
        if behind == FROM_CONTRAST:
            if kind == HUE:
                if CHANNELS == 3 and factor != 0.0:
                    value = tl.maximum(a, tl.maximum(b, c))
                    chroma = value - tl.minimum(a, tl.minimum(b, c))
                    sextant = tl.where(value == b, c - a + 2.0 * chroma, a - b + 4.0 * chroma)
                    sextant = tl.where(value == a, b - c, sextant)
                    sextant = sextant / tl.where(chroma == 0.0, 1.0, chroma) + 6.0 * factor
                    a = _channel_of_hue(value, chroma, sextant + 5.0)
                    b = _channel_of_hue(value, chroma, sextant + 3.0)
                    c = _channel_of_hue(value, chroma, sextant + 1.0)
            else:
                if factor != 1.0:
                    gray = tl.where(kind == CONTRAST, mean, _gray(a, b, c, CHANNELS, GROUP))
                    gray = tl.where(kind == BRIGHTNESS, 0.0, gray)
                    a, b, c = _blend(a, factor, gray), _blend(b, factor, gray), _blend(c, factor, gray)
    return a, b, c


@triton.jit
def _solarize(value, image):
    return tl.where(value >= tl.load(image + THRESHOLD), 1.0 - value, value)


@triton.jit(do_not_specialize=COUNTS)
def recolor(
    work, sums, table, statistics, out, tiles, first,
    AREA: tl.constexpr, CHANNELS: tl.constexpr, GROUP: tl.constexpr, TILES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Contrast, the changes after it and grayscale. An image with a blur is written to `work`, another one to `out`.

    TILES is `tiles`, or more, as a power of 2.
    """
    row, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    image = table + (first + row) * COLUMNS
    part = tl.arange(0, TILES)
    mean = tl.sum(tl.load(sums + row * tiles + part, mask=part < tiles, other=0.0)) / AREA
    p = tile * BLOCK + tl.arange(0, BLOCK)
    g = tl.arange(0, GROUP)[:, None]
    source = work + row.to(tl.int64) * (CHANNELS * AREA) + g * AREA + p[None, :]
    read, third = (p < AREA)[None, :], GROUP * AREA
    a = tl.load(source, mask=read & (g < CHANNELS), other=0.0)
    b = tl.load(source + third, mask=read & (g + GROUP < CHANNELS), other=0.0)
    c = tl.load(source + 2 * third, mask=read & (g + 2 * GROUP < CHANNELS), other=0.0)
    a, b, c = _change_colors(a, b, c, image, mean, True, CHANNELS, GROUP)
    if tl.load(image + GRAYSCALE) > 0:
        gray = tl.broadcast_to(_gray(a, b, c, CHANNELS, GROUP), [GROUP, BLOCK])
        a, b, c = gray, gray, gray
    if tl.load(image + SIGMA) > 0:
        _store(work, a, b, c, p, row, AREA, CHANNELS, GROUP)
    else:
        a, b, c = _solarize(a, image), _solarize(b, image), _solarize(c, image)
        _store_normalized(out, a, b, c, p, first + row, statistics, AREA, CHANNELS, GROUP)


@triton.jit(do_not_specialize=COUNTS)
def blur(
    source, table, statistics, target, tiles, first,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr, VERTICAL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Blurs the images with a sigma along one axis, borders reflected. The vertical pass solarizes and normalizes."""
    row, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    image = table + (first + row) * COLUMNS
    sigma = tl.load(image + SIGMA)
    if sigma > 0:
        n = tile * BLOCK + tl.arange(0, BLOCK)
        inside = n < CHANNELS * HEIGHT * WIDTH
        if VERTICAL:
            at, stride, side = (n // WIDTH) % HEIGHT, WIDTH, HEIGHT
        else:
            at, stride, side = n % WIDTH, 1, WIDTH
        line = source + row.to(tl.int64) * (CHANNELS * HEIGHT * WIDTH) + (n - at * stride)
        value = tl.load(line + at * stride, mask=inside, other=0.0)
        total = 1.0
        reach = tl.minimum(tl.ceil(4.0 * sigma).to(tl.int32), side - 1)
        away = 1
        while away <= reach:
            ratio = away / sigma
            weight = tl.exp(-0.5 * ratio * ratio)
            upper = at + away
            upper = tl.where(upper < side, upper, 2 * (side - 1) - upper)
            pair = tl.load(line + tl.abs(at - away) * stride, mask=inside, other=0.0)
            pair += tl.load(line + upper * stride, mask=inside, other=0.0)
            value += weight * pair
            total += 2.0 * weight
            away += 1
        value = value / total
        if VERTICAL:
            channel = n // (HEIGHT * WIDTH)
            mean = tl.load(statistics + channel, mask=inside, other=0.0)
            std = tl.load(statistics + CHANNELS + channel, mask=inside, other=1.0)
            value = (_solarize(value, image) - mean) / std
            target += (first + row).to(tl.int64) * (CHANNELS * HEIGHT * WIDTH)
        else:
            target += row.to(tl.int64) * (CHANNELS * HEIGHT * WIDTH)
        tl.store(target + n, value.to(target.dtype.element_ty), mask=inside)


# ---------------------------------------------------------------------------------------------------------------- stores


@triton.jit
def _store(out, a, b, c, p, row, AREA: tl.constexpr, CHANNELS: tl.constexpr, GROUP: tl.constexpr):
    """Writes pixels `p` of view `row` of out [R, C, H, W]."""
    g, third = tl.arange(0, GROUP)[:, None], GROUP * AREA
    target = out + row.to(tl.int64) * (CHANNELS * AREA) + g * AREA + p[None, :]
    inside = (p < AREA)[None, :]
    tl.store(target, a.to(out.dtype.element_ty), mask=inside & (g < CHANNELS))
    tl.store(target + third, b.to(out.dtype.element_ty), mask=inside & (g + GROUP < CHANNELS))
    tl.store(target + 2 * third, c.to(out.dtype.element_ty), mask=inside & (g + 2 * GROUP < CHANNELS))


@triton.jit
def _normalize(value, g, statistics, CHANNELS: tl.constexpr):
    mean = tl.load(statistics + g, mask=g < CHANNELS, other=0.0)
    return (value - mean) / tl.load(statistics + CHANNELS + g, mask=g < CHANNELS, other=1.0)


@triton.jit
def _store_normalized(
    out, a, b, c, p, row, statistics, AREA: tl.constexpr, CHANNELS: tl.constexpr, GROUP: tl.constexpr
):
    g = tl.arange(0, GROUP)[:, None]
    a, b = _normalize(a, g, statistics, CHANNELS), _normalize(b, g + GROUP, statistics, CHANNELS)
    c = _normalize(c, g + 2 * GROUP, statistics, CHANNELS)
    _store(out, a, b, c, p, row, AREA, CHANNELS, GROUP)
