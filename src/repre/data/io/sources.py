"""What a ``--data`` string means: a folder, a list of files, a data set by name, or the embedded scenes."""

from pathlib import Path
from typing import Protocol

import numpy as np

from repre.data.io.folders import open_folder
from repre.data.io.torchvision_sets import DATA_SETS, ArraySource
from repre.data.scenes import Scenes, ScenesConfig
from repre.errors import UserError, near_names

Array = np.ndarray


class Source(Protocol):
    """Images by index, with labels if the data have them. Sources are sent to worker processes."""

    spec: str
    """The string that it was opened from."""
    channels: int
    """Channels of every image."""
    classes: list[str]
    """Names of the classes; empty without labels."""

    @property
    def labels(self) -> Array | None:
        """int64 [N]; None without labels."""

    def __len__(self) -> int: ...

    def load(self, index: int) -> Array:
        """Image `index`, [H, W, C]; raises UnreadableImage."""

    def describe(self, index: int) -> str:
        """Name of image `index` in messages."""


def open_source(
    spec: str, *, split: str = "train", channels: int = 3, canvas: int | None = None, cache_dir: Path | None = None
) -> Source:
    """Opens what `spec` names.

    Args:
        spec: a folder, a .txt list of files, ``cifar10:ROOT``, ``cifar100:ROOT``, ``stl10:ROOT``, ``fashion-mnist:ROOT``,
            ``imagenet:ROOT``, ``scenes``, ``scenes:COUNT`` or ``scenes:COUNT:SIZE``.
        split: train or val. The train split of STL-10 includes its unlabeled images; ``labeled`` leaves them out.
        channels: channels of the images.
        canvas: larger images are shrunk to fit this square.
        cache_dir: folder for the index of a folder; by default the user's cache folder.

    Raises:
        UserError: the data do not exist or hold no images.
    """
    if not spec:
        raise UserError("--data is empty; name a folder of images, or scenes")
    path = Path(spec).expanduser()
    name, _, root = spec.partition(":")
    if path.exists() or not (root or name == "scenes"):
        return open_folder(spec, path, split=split, channels=channels, canvas=canvas, cache_dir=cache_dir)
    if name == "scenes":
        return _open_scenes(spec, root, split=split, channels=channels)
    if name == "imagenet":
        return open_folder(spec, Path(root) / split, split=split, channels=channels, canvas=canvas, cache_dir=cache_dir)
    if name not in DATA_SETS:
        known = ["scenes", "imagenet", *DATA_SETS]
        raise UserError(f"--data {spec}: no such folder, and no data set {name!r}{near_names(name, known)}")
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise UserError(f"--data {spec}: there is no folder {folder}")
    images, labels, classes = DATA_SETS[name](folder, split)
    return ArraySource(spec, images, labels, classes, channels=channels)


def _open_scenes(spec: str, numbers: str, *, split: str, channels: int) -> Scenes:
    if channels != 3:
        raise UserError("the scenes have three channels; leave --encoder.channels at 3")
    try:
        count, size = ([int(part) for part in numbers.split(":")] + [64])[:2] if numbers else (4096, 64)
    except ValueError as error:
        raise UserError(f"--data {spec}: write scenes, scenes:COUNT or scenes:COUNT:SIZE") from error
    if count < 1:
        raise UserError(f"--data {spec}: write at least one scene")
    return Scenes(count, config=ScenesConfig(size=size), split=split)
