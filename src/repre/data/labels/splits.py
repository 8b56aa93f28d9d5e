"""Labeled images of a source, and seeded draws of them: held-out shares, label fractions, shots.

N  images    C  classes    targets: int64 [N], the class of every image, or float32 [N, C] of 0 and 1 (several labels)
"""

import hashlib
import json
import os
from dataclasses import asdict

import numpy as np

from repre.data.io.image_files import FileSource
from repre.data.io.image_limits import UnreadableImage
from repre.data.io.sources import Source
from repre.data.io.torchvision_sets import ArraySource
from repre.data.loading.order import epoch_order
from repre.data.scenes import Scenes
from repre.errors import UserError

Array = np.ndarray

HELD_OUT = 0.2
"""Share of images held out to test if the data have no test images. The seed of an evaluation does not change them."""
HOLD, SHARE, SHOTS = 1, 2, 3
SUBSET = (1, 1)
"""Random streams of the four kinds of draws."""


class LabeledImages:
    """Images of a source with their targets. It is a source itself, so that every loader takes it.

    Args:
        source: source of the images.
        targets: int64 [N], or float32 [N, C] for several labels per image.
        classes: names of the C classes.
        indices: which images of the source these are, int64 [N]; None for all.
    """

    def __init__(self, source: Source, targets: Array, *, classes: list[str], indices: Array | None = None) -> None:
        self.source, self.targets, self.classes = source, targets, classes
        self.spec, self.channels = source.spec, source.channels
        self.indices = np.arange(len(source), dtype=np.int64) if indices is None else indices
        assert len(self.indices) == len(targets), (len(self.indices), len(targets))

    @property
    def multilabel(self) -> bool:
        return self.targets.ndim == 2

    @property
    def labels(self) -> Array | None:
        return None if self.multilabel else self.targets

    def __len__(self) -> int:
        return len(self.indices)

    def load(self, index: int) -> Array:
        return self.source.load(int(self.indices[index]))

    def describe(self, index: int) -> str:
        return self.source.describe(int(self.indices[index]))

    def canvas(self, side: int) -> int:
        """Side of a square that every image fits: for files `side`, to which they are shrunk; for images in memory, which
        have one size, their own longer side."""
        return side if isinstance(self.source, FileSource) else max(self.source.load(0).shape[:2])

    def take(self, rows: Array) -> "LabeledImages":
        """The images at `rows`, int64 indices into these images, in that order."""
        return LabeledImages(self.source, self.targets[rows], classes=self.classes, indices=self.indices[rows])

    def with_classes(self, classes: list[str]) -> "LabeledImages":
        """The same images, with one label each, numbered by a longer list of classes."""
        numbers = np.array([classes.index(name) for name in self.classes], np.int64)
        return LabeledImages(self.source, numbers[self.targets], classes=classes, indices=self.indices)

    def identity(self) -> str:
        """The `source_identity` of these images; targets are no part of it."""
        return source_identity(self.source, self.indices)


def source_identity(source: Source, indices: Array | None = None, *, decoded: bool = True) -> str:
    """A hash that changes with the pixels of a source's images: of all, or of those at `indices`.

    It covers names, sizes and times of files, bytes of arrays, settings of scenes.

    Args:
        decoded: include the size to which files are decoded, and their whole paths instead of their names in the data.
    """
    digest = hashlib.sha256()
    if isinstance(source, FileSource):
        for index in range(len(source)) if indices is None else map(int, indices):  # a million of them are no list
            try:
                stamp = source.stamp(index)
            except UnreadableImage:
                stamp = None
            name = source.describe(index) if decoded else str(source.files.names[index])
            digest.update(os.fsencode(name) + b"\0" + repr(stamp).encode())
        digest.update(repr(source.canvas).encode() if decoded else b"")
        return digest.hexdigest()
    indices = np.arange(len(source), dtype=np.int64) if indices is None else indices
    if isinstance(source, Scenes):
        digest.update(json.dumps([asdict(source.config), source.split]).encode())
        digest.update(indices.tobytes())
    elif isinstance(source, ArraySource):
        digest.update(repr(source.images.shape[1:]).encode())
        for part in np.array_split(indices, max(1, len(indices) // 4096)):
            digest.update(source.images[part].tobytes())
    else:
        for index in indices.tolist():
            image = source.load(index)
            digest.update(repr((image.shape, image.dtype)).encode() + np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------------------- draws
# Each is a function of its arguments, and returns indices in rising order.


def fixed_hold_out(count: int) -> tuple[list[int], list[int]]:
    """Splits `count` images without classes: indices that are kept, and HELD_OUT of them, at least one, to test on."""
    order = epoch_order(count, seed=0, epoch=0).tolist()
    held = max(1, round(HELD_OUT * count))
    return sorted(order[held:]), sorted(order[:held])


def hold_out(targets: Array, share: float, *, seed: int) -> tuple[Array, Array]:
    """Splits labeled images into those that are kept and a share of every class: at least one image, never all.

    A class with a single image keeps it. With several labels per image, images are drawn at random while every class keeps
    at least one.

    Returns:
        Indices kept and indices held out.
    """
    rng = _generator(seed, HOLD)
    held: list[int] = []
    if targets.ndim == 1:
        for members in _by_class(targets, rng):
            held += members[: min(len(members) - 1, max(1, round(share * len(members))))]
    else:
        remaining, count = targets.sum(0), max(1, round(share * len(targets)))
        for index in rng.permutation(len(targets)).tolist():
            if len(held) < count and (remaining[targets[index] > 0] > 1).all():
                held.append(index)
                remaining = remaining - targets[index]
    kept = np.setdiff1d(np.arange(len(targets)), held)
    return kept, np.sort(np.array(held, np.int64))


def draw_share(targets: Array, share: float, *, seed: int) -> Array:
    """Draws the same share of every class, at least one image. A smaller share is a subset of a larger one."""
    rng = _generator(seed, SHARE)
    if targets.ndim == 1:
        chosen = [i for members in _by_class(targets, rng) for i in members[: max(1, round(share * len(members)))]]
        return np.sort(np.array(chosen, np.int64))
    order = rng.permutation(len(targets))
    positive = targets[order] > 0
    first = order[np.unique(positive.argmax(0)[positive.any(0)])]  # the first image of every class
    order = np.concatenate([first, order[~np.isin(order, first)]])
    return np.sort(order[: max(len(first), round(share * len(targets)))])


def label_subset(count: int, fraction: float, *, seed: int) -> list[int]:
    """Draws a share of `count` images without classes, at least one. A smaller share is a subset of a larger one."""
    order = np.random.Generator(np.random.PCG64([seed, *SUBSET])).permutation(count)
    return sorted(order[: max(1, round(fraction * count))].tolist())


def draw_shots(targets: Array, shots: int, *, seed: int, classes: list[str]) -> Array:
    """Draws `shots` images of every class.

    Raises:
        UserError: a class has fewer.
    """
    members = _by_class(targets, _generator(seed, SHOTS))
    few = [f"{classes[int(targets[m[0]])]} ({len(m)})" for m in members if len(m) < shots]
    if few:
        raise UserError(f"{shots} shots: too few training images of {', '.join(few[:5])}; draw fewer shots")
    return np.sort(np.array([index for m in members for index in m[:shots]], np.int64))


def _by_class(targets: Array, rng: np.random.Generator) -> list[list[int]]:
    """Indices of the images of every class that has any, in a random order within the class."""
    return [rng.permutation(np.flatnonzero(targets == label)).tolist() for label in np.unique(targets)]


def _generator(seed: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, stream]))
