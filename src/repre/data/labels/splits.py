"""Some images of a source with what they show; and seeded draws of them: held-out shares, label fractions, shots.

N  images    C  classes    targets: int64 [N], the class of every image, or float32 [N, C] of 0 and 1 (several labels)
"""

import hashlib
import json
import os
from dataclasses import asdict

import numpy as np

from repre.data.io.folders import FileSource
from repre.data.io.sources import Source
from repre.data.io.torchvision_sets import ArraySource
from repre.data.scenes import Scenes
from repre.errors import UserError

Array = np.ndarray

HOLD, SHARE, SHOTS = 1, 2, 3
SUBSET = (1, 1)
"""Random streams of the four kinds of draws."""


class LabeledImages:
    """Images of a source with their targets; a source itself, so that every loader takes it.

    Args:
        source: where the images come from.
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
        """Side of a square that every image fits: of the images in memory, which are of one size, or `side`, to which
        files were said to be shrunk."""
        return side if isinstance(self.source, FileSource) else max(self.source.load(0).shape[:2])

    def take(self, places: Array) -> "LabeledImages":
        """The images at `places`, in that order."""
        return LabeledImages(self.source, self.targets[places], classes=self.classes, indices=self.indices[places])

    def identity(self) -> str:
        """The `source_identity` of these images; targets are no part of it."""
        return source_identity(self.source, self.indices)


def source_identity(source: Source, indices: Array | None = None) -> str:
    """A hash that changes with the pixels of a source's images: of all, or of those at `indices`.

    It covers names, sizes and times of files, bytes of arrays, settings of scenes.
    """
    indices = np.arange(len(source), dtype=np.int64) if indices is None else indices
    digest = hashlib.sha256()
    if isinstance(source, FileSource):
        for index in indices.tolist():
            path = source.path(index)
            status = os.stat(path) if path.exists() else None
            digest.update(os.fsencode(path) + b"\0")
            digest.update(repr((status.st_size, status.st_mtime_ns) if status else None).encode())
        digest.update(repr(source.canvas).encode())
    elif isinstance(source, Scenes):
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
# Each is a function of the targets, the seed and its numbers; indices come back in rising order.


def hold_out(targets: Array, share: float, *, seed: int) -> tuple[Array, Array]:
    """Indices of the images kept and held out: of every class the same share, at least one image, never all.

    A class with a single image keeps it. With several labels per image, images are drawn at random as long as every
    class keeps one.
    """
    rng = _generator(seed, HOLD)
    held: list[int] = []
    if targets.ndim == 1:
        for members in _by_class(targets, rng):
            held += members[: min(len(members) - 1, max(1, round(share * len(members))))]
    else:
        left, wanted = targets.sum(0), max(1, round(share * len(targets)))
        for index in rng.permutation(len(targets)).tolist():
            if len(held) < wanted and (left[targets[index] > 0] > 1).all():
                held.append(index)
                left = left - targets[index]
    kept = np.setdiff1d(np.arange(len(targets)), held)
    return kept, np.sort(np.array(held, np.int64))


def draw_share(targets: Array, share: float, *, seed: int) -> Array:
    """Indices of a share of the images: of every class the same, at least one; a smaller share lies within a larger."""
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
    """Indices of a share of `count` images without classes, at least one, rising; a smaller share lies within a larger."""
    order = np.random.Generator(np.random.PCG64([seed, *SUBSET])).permutation(count)
    return sorted(order[: max(1, round(fraction * count))].tolist())


def draw_shots(targets: Array, shots: int, *, seed: int, classes: list[str]) -> Array:
    """Indices of `shots` images of every class; UserError where a class has fewer."""
    members = _by_class(targets, _generator(seed, SHOTS))
    few = [f"{classes[int(targets[m[0]])]} ({len(m)})" for m in members if len(m) < shots]
    if few:
        raise UserError(f"{shots} shots: too few training images of {', '.join(few[:5])}; draw fewer shots")
    return np.sort(np.array([index for m in members for index in m[:shots]], np.int64))


def _by_class(targets: Array, rng: np.random.Generator) -> list[list[int]]:
    """The images of every class that has any, each class in a random order."""
    return [rng.permutation(np.flatnonzero(targets == label)).tolist() for label in np.unique(targets)]


def _generator(seed: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, stream]))
