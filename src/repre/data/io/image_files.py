"""Images in files of any kind, on a disk, in archives or elsewhere: `Files` opens them, `FileSource` decodes them."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, NamedTuple, Protocol, TypedDict, TypeVar

import numpy as np

from repre.data.io.decode import read_image
from repre.data.io.names import Names
from repre.data.io.storage_faults import PATIENCE, read_patiently
from repre.utils.printable_text import printable

Array = np.ndarray
T = TypeVar("T")

MAX_CLASSES = 1 << 16
"""More folders are no classes: perhaps one for each image."""
Stamp = tuple[int, int]
"""Size of a file in bytes, and when it was modified or replaced, in nanoseconds; 0 where unknown. Another stamp means
another content."""


class Files(Protocol):
    """Encoded images by number, in a fixed order. They are sent to worker processes."""

    names: Names
    """Name of every file relative to `location`: the same after all of them have moved."""
    counts: list[int]
    """Files of each part, such as an archive or one of several folders. Names are unique within a part."""
    location: str
    """The folder, archive or address that holds them."""
    left: dict[str, int]
    """How many other files lie beside them and are not read, by their ending."""

    def __len__(self) -> int: ...

    def open(self, index: int) -> BinaryIO:
        """File `index`, open for reading, with `seek`; raises UnreadableImage with a short reason."""

    def stamp(self, index: int) -> Stamp:
        """What changes with the content of file `index`; raises UnreadableImage if it is gone."""

    def describe(self, index: int) -> str:
        """File `index`: its path, or its archive and the name in it, as they are."""


class Opened(NamedTuple):
    """Files, with the class of each if there are several."""

    files: Files
    labels: Array | None = None
    classes: Sequence[str] = ()


@dataclass(frozen=True)
class LabelImages:
    """A group of files that are masks or other labels of the other images.

    Attributes:
        where: the folder, or the pattern of their names.
        numbers: which files, int64 [N], ascending.
    """

    where: str
    numbers: Array


class Decoding(TypedDict):
    """How images are decoded; see `FileSource`."""

    channels: int
    canvas: int | None
    raw_values: bool


class FileSource:
    """Decoded images of files.

    Args:
        spec: the string that the source was opened from.
        files: opens them.
        channels: of every image.
        canvas: larger images are shrunk to fit this square; None leaves them as they are.
        raw_values: leave the values of DICOM files as they are, instead of applying their window.
        labels: class of every image, int64 [N]; None without labels.
        classes: names of the classes.

    Attributes:
        run_started: when the run that shows these files began, in nanoseconds; see `repre.data.loading.manifest`.
        patience: seconds that a fault of the storage may last; see `storage_faults`.
        every: the files, with the masks and other label images that were left out.
        label_images: what was left out.
    """

    def __init__(
        self,
        spec: str,
        files: Files,
        *,
        channels: int,
        canvas: int | None,
        raw_values: bool = False,
        labels: Array | None = None,
        classes: list[str] | None = None,
        every: Files | None = None,
        label_images: Sequence[LabelImages] = (),
    ) -> None:
        self.spec, self.files, self.channels, self.canvas, self.raw_values = spec, files, channels, canvas, raw_values
        self.labels, self.classes = labels, classes or []
        self.run_started: int | None = None
        self.patience = PATIENCE
        self.every, self.label_images = every or files, tuple(label_images)

    def __len__(self) -> int:
        return len(self.files)

    def with_label_images(self) -> "FileSource":
        """The same images with the masks that were left out, without classes."""
        return FileSource(self.spec, self.every, channels=self.channels, canvas=self.canvas, raw_values=self.raw_values)

    def load(self, index: int) -> Array:
        return self._patiently(self._read, index)

    def stamp(self, index: int) -> Stamp:
        """See `Files`."""
        return self._patiently(self.files.stamp, index)

    def _read(self, index: int) -> Array:
        with self.files.open(index) as file:
            return read_image(
                file,
                name=self.files.names[index],
                channels=self.channels,
                canvas=self.canvas,
                raw_values=self.raw_values,
            )

    def _patiently(self, read: Callable[[int], T], index: int) -> T:
        return read_patiently(partial(read, index), name=partial(self.describe, index), seconds=self.patience)

    def describe(self, index: int) -> str:
        return printable(self.files.describe(index))


def class_labels(files: Files) -> tuple[Array | None, list[str]]:
    """Labels by the first folder of every name: int64 [N] and the classes in alphabetical order.

    If all files are in one folder, as `zip -r photos.zip photos/` packs them, the folders in it are the classes.

    Args:
        files: sorted by the bytes of their names, in each part.

    Returns:
        None and no classes unless every file is in a folder and there are several.
    """
    labels, classes = _folder_labels(files, skip=0)
    if len(classes) == 1:
        labels, classes = _folder_labels(files, skip=len(os.fsencode(classes[0])) + 1)
    return (labels, classes) if len(classes) > 1 else (None, [])


def _folder_labels(files: Files, *, skip: int) -> tuple[Array | None, list[str]]:
    """As `class_labels`, also of one folder; all names begin with the same `skip` bytes."""
    ends = np.cumsum(files.counts).tolist()
    found: list[tuple[str, int, int]] = []
    classes_found: set[str] = set()
    for first, last in zip([0, *ends], ends):
        for group in files.names.prefix_groups(first, last, skip=skip):
            classes_found.add(group[0])
            if not group[0] or len(classes_found) > MAX_CLASSES:
                return None, []
            found.append(group)
    classes = sorted(classes_found)
    number = {name: number for number, name in enumerate(classes)}
    labels = np.empty(len(files), np.int64)
    for folder, first, last in found:
        labels[first:last] = number[folder]
    return labels, classes
