"""Detections to look at: truth | prediction, with boxes, masks, names and scores."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from repre.data.labels.boxes import Objects
from repre.evaluation.segmentation.overlay import GAP, INK, LINE, OPACITY, PAPER, class_colors, displayed

Array = np.ndarray

SIDE = 420
"""Longer side of a panel in pixels."""


def save_objects(path: Path, truth: Objects, found: Objects, *, scores: Array, classes: list[str]) -> None:
    """Writes a PNG.

    Args:
        truth: the image and what is in it.
        found: what was found in it; scores: [n].
    """
    colors = class_colors(classes)
    height, width = truth.image.shape[:2]
    share = SIDE / max(height, width)
    size = (max(1, round(width * share)), max(1, round(height * share)))
    sheet = Image.new("RGB", (2 * size[0] + 3 * GAP, size[1] + LINE + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=15)
    names = [[classes[label - 1] for label in one.labels] for one in (truth, found)]
    names[1] = [f"{name} {score:.0%}" for name, score in zip(names[1], scores)]
    for place, (title, one) in enumerate((("truth", truth), ("prediction", found))):
        left = GAP + place * (size[0] + GAP)
        draw.text((left, 4), title, INK, font)
        tints = [colors[label - 1] or INK for label in one.labels]
        sheet.paste(_panel(truth.image, one, tints, names[place], size, share), (left, LINE))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _panel(
    image: Array, one: Objects, tints: list[tuple[int, int, int]], names: list[str], size: tuple[int, int], share: float
) -> Image.Image:
    """The enlarged picture under its objects, those with the lowest scores below."""
    shown = np.array(Image.fromarray(displayed(image)).resize(size, Image.Resampling.BICUBIC)).astype(np.float32)
    for mask, tint in list(zip(one.masks, tints))[::-1]:
        here = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
        shown[here] += OPACITY * (np.array(tint, np.float32) - shown[here])
    panel = Image.fromarray(shown.round().astype(np.uint8))
    draw = ImageDraw.Draw(panel)
    font = ImageFont.load_default(size=14)
    for box, tint, name in list(zip(one.boxes * share, tints, names))[::-1]:
        left, top, right, bottom = (float(v) for v in box)
        draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=tint, width=2)
        extent = font.getlength(name) + 8
        left = max(0.0, min(left, size[0] - extent))
        top = top - 18 if top >= 18 else top
        draw.rectangle((left, top, left + extent, top + 18), fill=tint)
        dark = sum(tint) > 420
        draw.text((left + 4, top + 1), name, (0, 0, 0) if dark else (255, 255, 255), font)
    return panel
