"""Predictions to look at: image | truth | prediction, with the classes in color and a legend."""

import colorsys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from repre.data.labels.masks import IGNORE

Array = np.ndarray

SIDE, GAP, LINE = 288, 10, 26
"""Longer side of a panel, space between panels, height of a line of text; pixels."""
OPACITY = 0.55
PAPER, INK, UNKNOWN = (255, 255, 255), (40, 40, 40), (128, 128, 128)
FIRST = (
    (230, 25, 75), (60, 180, 75), (0, 130, 200), (255, 205, 0), (145, 30, 180), (70, 220, 230), (245, 130, 48),
    (240, 50, 230), (0, 120, 120), (170, 110, 40), (190, 240, 60), (250, 150, 190),
)  # fmt: skip
"""Colors of the first classes that are not the background; further ones turn by the golden angle."""


def class_colors(classes: list[str]) -> list[tuple[int, int, int] | None]:
    """A color for every class; None for the background, which stays as it is."""
    colors: list[tuple[int, int, int] | None] = []
    number = 0
    for name in classes:
        if name == "background":
            colors.append(None)
            continue
        if number < len(FIRST):
            colors.append(FIRST[number])
        else:
            share = colorsys.hsv_to_rgb(number * 0.618 % 1, 0.55 + 0.4 * (number % 3) / 2, 0.95 - 0.3 * (number % 2))
            colors.append((int(share[0] * 255), int(share[1] * 255), int(share[2] * 255)))
        number += 1
    return colors


def save_overlay(path: Path, image: Array, truth: Array, predicted: Array, classes: list[str]) -> None:
    """Writes a PNG.

    Args:
        image: [H, W, C], uint8, uint16 or float32 in [0, 1]; of many channels the first three are shown.
        truth, predicted: labels [H, W].
    """
    colors = class_colors(classes)
    share = SIDE / max(truth.shape)
    size = (max(1, round(truth.shape[1] * share)), max(1, round(truth.shape[0] * share)))
    picture = np.asarray(Image.fromarray(displayed(image)).resize(size, Image.Resampling.BICUBIC))
    panels = [picture] + [_colored(picture, _enlarged(labels, size), colors) for labels in (truth, predicted)]

    font = ImageFont.load_default(size=15)
    seen = [c for c in range(len(classes)) if colors[c] is not None and ((truth == c) | (predicted == c)).any()]
    entries = [(classes[c], colors[c] or PAPER) for c in seen]
    entries += [("ignored", UNKNOWN)] if (truth == IGNORE).any() else []
    width = 3 * size[0] + 4 * GAP
    lines = _legend_lines(entries, font, width)
    sheet = Image.new("RGB", (width, size[1] + LINE * (len(lines) + 1) + 2 * GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    for place, (title, panel) in enumerate(zip(("image", "truth", "prediction"), panels)):
        left = GAP + place * (size[0] + GAP)
        draw.text((left, 4), title, INK, font)
        sheet.paste(Image.fromarray(panel), (left, LINE))
    for row, line in enumerate(lines):
        top = LINE + size[1] + GAP + row * LINE
        for left, name, color in line:
            draw.rectangle((left, top + 3, left + 14, top + 17), fill=color)
            draw.text((left + 20, top), name, INK, font)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def displayed(image: Array) -> Array:
    """uint8 [H, W, 3]."""
    if image.dtype == np.uint16:
        image = image / 65535
    if image.dtype != np.uint8:
        image = (image.clip(0, 1) * 255).round().astype(np.uint8)
    return np.ascontiguousarray(image[..., :3] if image.shape[2] >= 3 else image[..., :1].repeat(3, axis=2))


def _enlarged(labels: Array, size: tuple[int, int]) -> Array:
    return np.asarray(Image.fromarray(labels.astype(np.uint8)).resize(size, Image.Resampling.NEAREST))


def _colored(picture: Array, labels: Array, colors: list[tuple[int, int, int] | None]) -> Array:
    """The picture under its classes: filled lightly, outlined fully; ignored pixels are gray."""
    edge = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        for step in (-1, 1):
            edge |= np.roll(labels, step, axis) != labels
    edge[[0, -1]] = edge[:, [0, -1]] = False  # the other side of the picture is no neighbor
    shown = picture.astype(np.float32)
    for label in np.unique(labels).tolist():
        color = UNKNOWN if label == IGNORE else colors[label]
        if color is not None:
            here = labels == label
            shown[here] += OPACITY * (np.array(color, np.float32) - shown[here])
            shown[here & edge] = color
    return shown.round().astype(np.uint8)


Entry = tuple[int, str, tuple[int, int, int]]


def _legend_lines(
    entries: list[tuple[str, tuple[int, int, int]]], font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int
) -> list[list[Entry]]:
    """Breaks the legend into lines: left edge, name and color of every entry."""
    lines: list[list[Entry]] = [[]]
    left = GAP
    for name, color in entries:
        needed = 20 + int(font.getlength(name)) + 18
        if lines[-1] and left + needed > width:
            lines.append([])
            left = GAP
        lines[-1].append((left, name, color))
        left += needed
    return lines
