"""Sizes of image files by their headers, without decoding them."""

from pathlib import Path

from PIL import Image

from repre.data.io.decode import FORMATS, read_image
from repre.data.io.image_limits import UnreadableImage

ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)
"""EXIF tag of the orientation, and its values that swap height and width."""


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image after its EXIF rotation.

    Raises:
        UnreadableImage: the file is missing, damaged or no image.
    """
    try:
        with Image.open(path, formats=FORMATS) as file:
            size = file.height, file.width
            # Pillow would decode a whole PNG to look for EXIF data behind its pixels
            sideways = (file.format != "PNG" or "exif" in file.info) and file.getexif().get(ORIENTATION) in SIDEWAYS
            return size[::-1] if sideways else size
    except FileNotFoundError as error:
        raise UnreadableImage("the file has vanished") from error
    except Exception:  # another kind of file, or a damaged one: whoever decodes it knows
        height, width = read_image(path).shape[:2]
        return height, width
