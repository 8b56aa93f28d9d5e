"""Images in memory as a source: PIL images, arrays, tensors, and paths among them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from repre.data.io.decode import as_image
from repre.data.io.image_files import FileSource
from repre.data.io.local_files import LocalFiles
from repre.data.io.names import Names
from repre.errors import UserError
from repre.utils.printable_text import printable

Array = np.ndarray
KINDS = (str, Path, Image.Image, np.ndarray, Tensor)
"""What an image may be given as."""


class MemorySource:
    """Images in memory: PIL images, arrays [H, W] or [H, W, C], tensors [C, H, W], and paths among them."""

    spec = "images in memory"
    labels: Array | None = None

    def __init__(self, images: Sequence[Any], *, channels: int, canvas: int | None, raw_values: bool) -> None:
        self.images, self.channels, self.canvas, self.raw_values = images, channels, canvas, raw_values
        self.classes: list[str] = []

    def __len__(self) -> int:
        return len(self.images)

    def load(self, index: int) -> Array:
        image = self.images[index]
        if isinstance(image, str | Path):
            return file_source([image], self.channels, self.canvas, self.raw_values).load(0)
        if isinstance(image, Tensor):
            image = image.detach().cpu()
            image = (image.float() if image.dtype in (torch.bfloat16, torch.float16) else image).numpy()
            image = image.transpose(1, 2, 0) if image.ndim == 3 else image
        return as_image(image, channels=self.channels, canvas=self.canvas)

    def describe(self, index: int) -> str:
        image = self.images[index]
        return printable(image) if isinstance(image, str | Path) else f"image {index}"


def as_images(images: Any) -> tuple[list[Any], bool]:
    """One or several images as a list, and whether it was one.

    Args:
        images: a path, a PIL image, an array [H, W, C] or [H, W], a tensor [C, H, W], a list of these or a batch [B, ...].

    Raises:
        UserError: there is none, or something else.
    """
    one = isinstance(images, str | Path | Image.Image) or (isinstance(images, np.ndarray | Tensor) and images.ndim < 4)
    if one:
        images = [images]
    if not isinstance(images, Sequence | np.ndarray | Tensor) or len(images) == 0:
        raise UserError("there are no images; give paths, PIL images, arrays or tensors")
    images = list(images)
    if wrong := next((image for image in images if not isinstance(image, KINDS)), None):
        raise UserError(f"{type(wrong).__name__} is not an image; give paths, PIL images, arrays or tensors")
    return images, one


def file_source(images: Sequence[Any], channels: int, canvas: int | None, raw_values: bool) -> FileSource:
    """Image files by their paths, in that order."""
    paths = [str(Path(image).expanduser()) for image in images]
    files = LocalFiles(Path(), Names.of(paths))
    return FileSource(", ".join(paths[:3]), files, channels=channels, canvas=canvas, raw_values=raw_values)
