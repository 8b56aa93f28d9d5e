"""From a head's log depth of windows to the depth of every pixel of an image, and a picture of it.

n  windows of an image    S  side of a window    H, W  height and width of an image
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from repre.data.labels.windows import Plan, merge
from repre.evaluation.segmentation.overlay import BACKGROUND_COLOR, GAP, LINE, SIDE, TEXT_COLOR, to_rgb
from repre.evaluation.segmentation.segmentation_heads import resize

NEAREST = 1e-3
"""Meters below which no prediction goes."""
COLORS = np.array([(253, 231, 37), (94, 201, 98), (33, 145, 140), (59, 82, 139), (68, 1, 84)], np.float32)
"""From near to far: yellow, green, blue, violet."""


def predict_depth(windows: Tensor, plan: Plan, size: tuple[int, int], *, max_depth: float | None) -> Tensor:
    """Returns the depth of every pixel of an image in meters, [H, W].

    Args:
        windows: log depth of its windows, [n, 1, S, S]; their mean counts where windows overlap.
        plan: positions of the windows.
        size: height and width of the image.
        max_depth: largest depth that is predicted; None for no limit.
    """
    return resize(merge(windows, plan)[None], size)[0, 0].exp().clamp(NEAREST, max_depth)


def draw_depth(image: np.ndarray, depth: np.ndarray) -> Image.Image:
    """Draws an image beside its depth, in colors from its nearest to its farthest pixel, with a scale in meters.

    Args:
        image: [H, W, C], uint8, uint16 or float32 in [0, 1].
        depth: in meters, [H, W].
    """
    height, width = depth.shape
    scale = SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    near, far = float(depth.min()), float(depth.max())
    logs = (np.log(depth) - np.log(near)) / max(np.log(far) - np.log(near), 1e-12)
    panels = {"image": Image.fromarray(to_rgb(image)), "depth": Image.fromarray(_colors(logs))}
    font = ImageFont.load_default(size=15)
    texts = (f"{near:.3g} m", f"{far:.3g} m")
    text_widths = [int(font.getlength(text)) + GAP for text in texts]
    bar = 90
    sheet_width = max(2 * (size[0] + GAP) + GAP, sum(text_widths) + bar + 3 * GAP)
    sheet = Image.new("RGB", (sheet_width, size[1] + 2 * LINE + 2 * GAP), BACKGROUND_COLOR)
    draw = ImageDraw.Draw(sheet)
    for column, (title, panel) in enumerate(panels.items()):
        left = GAP + column * (size[0] + GAP)
        draw.text((left, 4), title, TEXT_COLOR, font)
        sheet.paste(panel.resize(size, Image.Resampling.BICUBIC), (left, LINE))
    left, top = GAP, LINE + size[1] + GAP
    draw.text((left, top), texts[0], TEXT_COLOR, font)
    ramp = _colors(np.linspace(0, 1, bar)[None].repeat(14, 0))
    sheet.paste(Image.fromarray(ramp), (left + text_widths[0], top + 3))
    draw.text((left + text_widths[0] + bar + GAP, top), texts[1], TEXT_COLOR, font)
    return sheet


def _colors(values: np.ndarray) -> np.ndarray:
    """Values in [0, 1], [H, W] -> uint8 [H, W, 3]."""
    stops = np.linspace(0, 1, len(COLORS))
    channels = [np.interp(values, stops, COLORS[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=2).round().astype(np.uint8)
