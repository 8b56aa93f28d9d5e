"""Limits on what a file may claim to hold, so that reading it needs bounded memory and time."""

import math

MAX_PIXELS = 178_956_970
"""Larger images are refused as decompression bombs; Pillow's limit."""
MAX_VALUES = 4 * MAX_PIXELS
"""Most values of an array, over all of its channels and pages."""
MAX_ASPECT = 100
"""Longest side over shortest side. Longer strips cannot be cropped sensibly."""


class UnreadableImage(Exception):
    """A file that gives no usable pixels; the message is the reason."""


def check_shape(height: int, width: int) -> None:
    """Refuses empty, huge and very long images.

    Raises:
        UnreadableImage: names the size.
    """
    if min(height, width) < 1:
        raise UnreadableImage(f"{height} x {width} pixels")
    if height * width > MAX_PIXELS:
        raise UnreadableImage("too many pixels: a decompression bomb?")
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise UnreadableImage(f"{height} x {width} pixels: a strip, not an image")


def check_values(shape: tuple[int, ...]) -> None:
    """Refuses empty and huge arrays.

    Raises:
        UnreadableImage: names the shape.
    """
    if min(shape, default=0) < 1:
        raise UnreadableImage(f"an array of {' x '.join(map(str, shape))}")
    if math.prod(shape) > MAX_VALUES:
        raise UnreadableImage("too many values: a decompression bomb?")
