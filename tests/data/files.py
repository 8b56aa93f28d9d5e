"""Small image files for tests."""

from pathlib import Path

from PIL import Image


def picture(path: Path, value: int = 100) -> Path:
    """Writes an image of 12 x 10 pixels in one shade of red, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 10), (value, 0, 0)).save(path)
    return path
