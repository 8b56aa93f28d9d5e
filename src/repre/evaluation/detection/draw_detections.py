"""Draws detections: truth | prediction, with boxes, masks, names and scores.

n  objects    H, W  height and width
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from repre.data.labels.boxes import Objects
from repre.evaluation.detection.detection_data import Detections
from repre.evaluation.segmentation.overlay import (
    BACKGROUND_COLOR,
    GAP,
    LINE,
    OPACITY,
    TEXT_COLOR,
    Color,
    class_colors,
    to_rgb,
)

Array = np.ndarray

SIDE = 420
"""Longer side of a panel in pixels."""


def save_detections(path: Path, truth: Objects, detections: Detections, *, classes: list[str]) -> None:
    """Writes a PNG with truth and prediction.

    Args:
        path: the file; its folder is created.
        truth: the image and its true objects.
        detections: the objects to draw beside them.
        classes: names; label c means classes[c - 1].
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_detections(truth.image, {"truth": truth, "prediction": detections}, classes=classes).save(path)


def draw_detections(image: Array, panels: dict[str, Objects | Detections], *, classes: list[str]) -> Image.Image:
    """Draws an image once for each of some sets of objects, with their boxes, masks, names and scores.

    Args:
        image: [H, W, C], uint8, uint16 or float32 in [0, 1].
        panels: the objects by the title of their panel.
        classes: names; label c means classes[c - 1].
    """
    colors = class_colors(classes)
    height, width = image.shape[:2]
    scale = SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    pixels = np.asarray(Image.fromarray(to_rgb(image)).resize(size, Image.Resampling.BICUBIC))
    sheet = Image.new("RGB", (len(panels) * (size[0] + GAP) + GAP, size[1] + LINE + GAP), BACKGROUND_COLOR)
    draw = ImageDraw.Draw(sheet)
    for column, (title, objects) in enumerate(panels.items()):
        captions = [classes[label - 1] for label in objects.labels]
        if isinstance(objects, Detections):
            captions = [f"{caption} {score:.0%}" for caption, score in zip(captions, objects.scores)]
        left = GAP + column * (size[0] + GAP)
        draw.text((left, 4), title, TEXT_COLOR, ImageFont.load_default(size=15))
        masks = () if objects.masks is None else objects.masks
        object_colors = [colors[label - 1] or TEXT_COLOR for label in objects.labels]
        sheet.paste(_panel(pixels, masks, objects.boxes * scale, object_colors, captions), (left, LINE))
    return sheet


def _panel(
    pixels: Array, masks: Sequence[Array] | Array, boxes: Array, colors: list[Color], captions: list[str]
) -> Image.Image:
    """The image [H, W, 3] with its objects, the first on top; boxes are in its pixels, masks of any size."""
    height, width = pixels.shape[:2]
    colored = pixels.astype(np.float32)
    for mask, color in list(zip(masks, colors))[::-1]:
        inside = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
        colored[inside] += OPACITY * (np.array(color, np.float32) - colored[inside])
    panel = Image.fromarray(colored.round().astype(np.uint8))
    draw = ImageDraw.Draw(panel)
    font = ImageFont.load_default(size=14)
    for box, color, caption in list(zip(boxes, colors, captions))[::-1]:
        left, top, right, bottom = (float(value) for value in box)
        draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=color, width=2)
        text_width = font.getlength(caption) + 8
        left = max(0.0, min(left, width - text_width))
        top = top - 18 if top >= 18 else top
        draw.rectangle((left, top, left + text_width, top + 18), fill=color)
        text_color = (0, 0, 0) if sum(color) > 420 else (255, 255, 255)
        draw.text((left + 4, top + 1), caption, text_color, font)
    return panel
