"""Data sets of torchvision that fit in memory, read from their original files; nothing is downloaded."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from repre.errors import UserError

Array = np.ndarray


class ArraySource:
    """Images in one array [N, H, W, C] of uint8.

    Args:
        spec: the string that the source was opened from.
        labels: class of every image, int64 [N]; None without labels.
        classes: names of the classes.
        channels: of the images that are loaded; gray is repeated, and color becomes gray.

    Raises:
        UserError: the array cannot be brought to that number of channels.
    """

    def __init__(self, spec: str, images: Array, labels: Array | None, classes: list[str], *, channels: int) -> None:
        if images.shape[3] != channels and images.shape[3] != 1 and channels != 1:
            raise UserError(f"--data {spec} has {images.shape[3]} channels; set --encoder.channels {images.shape[3]}")
        self.spec, self.images, self.labels, self.classes, self.channels = spec, images, labels, classes, channels

    def __len__(self) -> int:
        return len(self.images)

    def load(self, index: int) -> Array:
        image = self.images[index]
        if image.shape[2] == self.channels:
            return image
        if self.channels == 1:
            return np.round(image @ np.array([0.299, 0.587, 0.114]))[..., None].astype(np.uint8)
        return image.repeat(self.channels, axis=2)

    def describe(self, index: int) -> str:
        return f"{self.spec} image {index}"


def _torchvision(name: str, folder: Path, **split: Any) -> Any:
    import torchvision.datasets

    try:
        return getattr(torchvision.datasets, name)(str(folder), download=False, **split)
    except RuntimeError as error:
        raise UserError(f"{name} is incomplete in {folder}; put the original files there: {error}") from error


def _cifar(name: str) -> Callable[[Path, str], tuple[Array, Array, list[str]]]:
    def read(folder: Path, split: str) -> tuple[Array, Array, list[str]]:
        data = _torchvision(name, folder, train=split == "train")
        return data.data, np.array(data.targets, np.int64), list(data.classes)

    return read


def _stl10(folder: Path, split: str) -> tuple[Array, Array | None, list[str]]:
    parts = {"train": "train+unlabeled", "labeled": "train"}
    data = _torchvision("STL10", folder, split=parts.get(split, "test"))
    labels = np.array(data.labels, np.int64)
    return data.data.transpose(0, 2, 3, 1), labels if (labels >= 0).all() else None, list(data.classes)


def _fashion_mnist(folder: Path, split: str) -> tuple[Array, Array, list[str]]:
    part = "train" if split == "train" else "t10k"
    classes = ["tshirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"]
    images = _read_idx(folder, f"{part}-images-idx3-ubyte", offset=16).reshape(-1, 28, 28, 1)
    return images, _read_idx(folder, f"{part}-labels-idx1-ubyte", offset=8).astype(np.int64), classes


def _read_idx(folder: Path, name: str, *, offset: int) -> Array:
    """The bytes of an IDX file after its header, gzipped or not, from `folder` or where torchvision unpacks it."""
    for base in (folder, folder / "FashionMNIST" / "raw", folder / "raw"):
        for path in (base / name, base / f"{name}.gz"):
            if path.is_file():
                content = path.read_bytes()
                try:
                    unpacked = gzip.decompress(content) if path.suffix == ".gz" else content
                    return np.frombuffer(unpacked, np.uint8, offset=offset)
                except (OSError, EOFError, ValueError) as error:
                    raise UserError(f"{path} is damaged: {error}") from error
    raise UserError(f"Fashion-MNIST is not in {folder}: there is no {name}.gz")


DATA_SETS: dict[str, Callable[[Path, str], tuple[Array, Array | None, list[str]]]] = {
    "cifar10": _cifar("CIFAR10"),
    "cifar100": _cifar("CIFAR100"),
    "stl10": _stl10,
    "fashion-mnist": _fashion_mnist,
}
"""Names in ``--data``. Each gives images, labels and names of classes of a folder and split (train, val, labeled)."""
