"""Draws maps of classes: image | truth | prediction, with the classes in color and a legend."""

import colorsys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from repre.data.labels.masks import IGNORE

Array = np.ndarray

SIDE, GAP, LINE = 288, 10, 26
"""Longer side of a panel, space between panels, height of a line of text; in pixels."""
OPACITY = 0.55
BACKGROUND_COLOR, TEXT_COLOR, IGNORED_COLOR = (255, 255, 255), (40, 40, 40), (128, 128, 128)
PALETTE = (
    (230, 25, 75), (60, 180, 75), (0, 130, 200), (255, 205, 0), (145, 30, 180), (70, 220, 230), (245, 130, 48),
    (240, 50, 230), (0, 120, 120), (170, 110, 40), (190, 240, 60), (250, 150, 190),
)  # fmt: skip
"""Colors of the first classes other than the background; the hues of further ones are a golden angle apart."""

Color = tuple[int, int, int]


def class_colors(classes: list[str]) -> list[Color | None]:
    """Returns a color for every class; None for the background, which is not colored."""
    numbers = iter(range(len(classes)))
    return [None if name == "background" else _color(next(numbers)) for name in classes]


def _color(number: int) -> Color:
    if number < len(PALETTE):
        return PALETTE[number]
    hue, saturation, value = number * 0.618 % 1, 0.55 + 0.4 * (number % 3) / 2, 0.95 - 0.3 * (number % 2)
    red, green, blue = (int(channel * 255) for channel in colorsys.hsv_to_rgb(hue, saturation, value))
    return red, green, blue


def save_overlay(path: Path, image: Array, truth: Array, predicted: Array, classes: list[str]) -> None:
    """Writes a PNG with truth and prediction.

    Args:
        path: the file; its folder is created.
        image, classes: as in `draw_overlay`.
        truth, predicted: labels [H, W].
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_overlay(image, {"truth": truth, "prediction": predicted}, classes).save(path)


def draw_overlay(image: Array, maps: dict[str, Array], classes: list[str]) -> Image.Image:
    """Draws an image, and beside it the image with each of some maps of classes.

    Args:
        image: [H, W, C], uint8, uint16 or float32 in [0, 1]; of more than three channels the first three are shown.
        maps: labels [H, W] by the title of their panel.
        classes: names.
    """
    colors = class_colors(classes)
    height, width = next(iter(maps.values())).shape
    scale = SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    pixels = np.asarray(Image.fromarray(to_rgb(image)).resize(size, Image.Resampling.BICUBIC))
    panels = {"image": pixels} | {
        title: _colored(pixels, _resized(labels, size), colors) for title, labels in maps.items()
    }

    font = ImageFont.load_default(size=15)
    shown = set().union(*(np.unique(labels).tolist() for labels in maps.values()))
    entries = [
        (name, color)
        for label, (name, color) in enumerate(zip(classes, colors))
        if color is not None and label in shown
    ]
    entries += [("ignored", IGNORED_COLOR)] if IGNORE in shown else []
    sheet_width = len(panels) * (size[0] + GAP) + GAP
    lines = _legend_lines(entries, font, sheet_width)
    sheet = Image.new("RGB", (sheet_width, size[1] + LINE * (len(lines) + 1) + 2 * GAP), BACKGROUND_COLOR)
    draw = ImageDraw.Draw(sheet)
    for column, (title, panel) in enumerate(panels.items()):
        left = GAP + column * (size[0] + GAP)
        draw.text((left, 4), title, TEXT_COLOR, font)
        sheet.paste(Image.fromarray(panel), (left, LINE))
    for row, line in enumerate(lines):
        top = LINE + size[1] + GAP + row * LINE
        for left, name, color in line:
            draw.rectangle((left, top + 3, left + 14, top + 17), fill=color)
            draw.text((left + 20, top), name, TEXT_COLOR, font)
    return sheet


def to_rgb(image: Array) -> Array:
    """Converts an image [H, W, C], as `draw_overlay` takes it, to uint8 [H, W, 3]."""
    if image.dtype == np.uint16:
        image = image / 65535
    if image.dtype != np.uint8:
        image = (image.clip(0, 1) * 255).round().astype(np.uint8)
    return np.ascontiguousarray(image[..., :3] if image.shape[2] >= 3 else image[..., :1].repeat(3, axis=2))


def _resized(labels: Array, size: tuple[int, int]) -> Array:
    return np.asarray(Image.fromarray(labels.astype(np.uint8)).resize(size, Image.Resampling.NEAREST))


def _colored(pixels: Array, labels: Array, colors: list[Color | None]) -> Array:
    """The image with its classes in color, filled lightly and outlined fully; ignored pixels are gray."""
    edge = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        for step in (-1, 1):
            edge |= np.roll(labels, step, axis) != labels
    edge[[0, -1]] = edge[:, [0, -1]] = False  # np.roll wraps around
    colored = pixels.astype(np.float32)
    for label in np.unique(labels).tolist():
        color = IGNORED_COLOR if label == IGNORE else colors[label]
        if color is not None:
            mask = labels == label
            colored[mask] += OPACITY * (np.array(color, np.float32) - colored[mask])
            colored[mask & edge] = color
    return colored.round().astype(np.uint8)


def _legend_lines(
    entries: list[tuple[str, Color]], font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int
) -> list[list[tuple[int, str, Color]]]:
    """Breaks the legend into lines: left edge, name and color of every entry."""
    lines: list[list[tuple[int, str, Color]]] = [[]]
    left = GAP
    for name, color in entries:
        needed = 20 + int(font.getlength(name)) + 18
        if lines[-1] and left + needed > width:
            lines.append([])
            left = GAP
        lines[-1].append((left, name, color))
        left += needed
    return lines
