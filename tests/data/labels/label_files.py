"""Small labeled data sets of every format, written by hand."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 20, 40
"""Size of the images."""


def save_image(path: Path, values: np.ndarray | None = None) -> Path:
    """Writes an image [H, W] or [H, W, 3]; without values a gray one of HEIGHT x WIDTH."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((HEIGHT, WIDTH, 3), 90, np.uint8) if values is None else values
    Image.fromarray(pixels).save(path)
    return path


def write_text(path: Path, text: str) -> Path:
    """Writes a text file and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def write_yolo(images: Path, labels: Path, lines: Mapping[str, Sequence[str] | None]) -> None:
    """Writes images and label files by their stem; None writes no label file."""
    for stem, rows in lines.items():
        save_image(images / f"{stem}.jpg")
        if rows is not None:
            write_text(labels / f"{stem}.txt", "\n".join(rows) + "\n")


def write_voc(root: Path, objects: Mapping[str, Sequence[str] | None], *, size: str | None = None) -> None:
    """Writes images and XML files by their stem; None writes no XML."""
    size = size or f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    for stem, elements in objects.items():
        save_image(root / "JPEGImages" / f"{stem}.jpg")
        if elements is not None:
            content = f"<annotation><filename>{stem}.jpg</filename>{size}{''.join(elements)}</annotation>"
            write_text(root / "Annotations" / f"{stem}.xml", content)


def voc_object(name: str, corners: Sequence[object], *, difficult: int = 0, more: str = "") -> str:
    """An <object> with xmin, ymin, xmax, ymax."""
    box = "".join(f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), corners))
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{box}</bndbox>{more}</object>"
