"""Sizes of image files by their headers, without decoding them."""

import warnings
from pathlib import Path

from PIL import Image

from repre.data.io.decode import read_image
from repre.data.io.image_kinds import FORMATS

ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)
"""EXIF tag of the orientation, and its values that swap height and width."""


def image_size(path: Path, *, channels: int = 3) -> tuple[int, int]:
    """Height and width of an image after its EXIF rotation.

    Args:
        channels: of the image, for files whose header does not say which sides are height and width.

    Raises:
        UnreadableImage: the file is missing, damaged or no image.
    """
    try:
        if path.is_file():
            with warnings.catch_warnings(), Image.open(path, formats=FORMATS) as file:
                warnings.simplefilter("ignore")  # of Pillow, about odd metadata
                # Pillow would decode a whole PNG to look for EXIF data behind its pixels
                has_exif = file.format != "PNG" or "exif" in file.info
                sideways = has_exif and file.getexif().get(ORIENTATION) in SIDEWAYS
                if not (sideways and file.format == "TIFF"):  # whose size some versions of Pillow turn and others not
                    return (file.width, file.height) if sideways else (file.height, file.width)
    except Exception:  # another kind of file, or a damaged one: who decodes it knows
        pass
    height, width = read_image(path, channels=channels).shape[:2]
    return height, width
