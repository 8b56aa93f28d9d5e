"""The files that a command uses and leaves out, and the lines that it prints about them."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from repre.data.io.decode import EXTENSIONS
from repre.data.io.file_choice import FileChoice
from repre.data.io.image_files import Files, LabelImages, Opened
from repre.data.io.joined_files import ChosenFiles, JoinedFiles, filter_files
from repre.data.io.label_images import find_label_images
from repre.data.io.names import AT_ONCE, Names
from repre.errors import counted
from repre.utils.evenly_spaced import evenly_spaced
from repre.utils.printable_text import printable

Array = np.ndarray

SHOWN = 3
"""Folders, endings and groups that are named; the rest is counted."""
MAX_FOLDERS = 1000
"""More folders are not counted."""
OTHER_IMAGES = (
    *(
        ".heic",
        ".heif",
        ".jxl",
        ".svg",
        ".psd",
        ".exr",
        ".hdr",
        ".ico",
        ".tga",
        ".eps",
        ".jfif",
        ".fits",
        ".nii",
        ".mha",
    ),
    *(".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf", ".raw", ".mp4", ".avi", ".mov", ".mkv", ".webm"),
)
"""Endings of images and videos that are not read."""
PACKED = (
    ".tar",
    ".zip",
    ".gz",
    ".tgz",
    ".7z",
    ".rar",
    ".zst",
    ".xz",
    ".bz2",
    ".parquet",
    ".arrow",
    ".h5",
    ".hdf5",
    ".lmdb",
)
"""Endings of archives and tables, which may hold further images."""
TESTS = ("val", "valid", "validation", "test", "testing")
"""Folders of images that are usually kept for tests."""


class Taken(NamedTuple):
    """Files that are used, out of all that were found.

    Attributes:
        opened: those that are used, with their classes.
        every: with the label images that are left out.
        label_images: what is left out.
    """

    opened: Opened
    every: Files
    label_images: list[LabelImages]


def take_files(found: Opened, choice: FileChoice) -> Taken:
    """Applies the patterns of a choice, and leaves out masks and other label images beside images.

    Raises:
        UserError: no file is left.
    """
    every = filter_files(found.files, include=choice.include, exclude=choice.exclude)
    targets = found.labels
    if targets is not None and isinstance(every, ChosenFiles):
        targets = targets[every.numbers]
    labels = find_label_images(every) if choice.masks == "leave" else []
    if not labels:
        return Taken(found._replace(files=every, labels=targets), every, [])
    kept = np.ones(len(every), bool)
    for group in labels:
        kept[group.numbers] = False
    numbers = np.flatnonzero(kept)
    counts = [int(part.sum()) for part in np.split(kept, np.cumsum(every.counts)[:-1])]
    files = ChosenFiles(every, every.names.take(numbers), numbers, counts)
    return Taken(found._replace(files=files, labels=None if targets is None else targets[numbers]), every, labels)


def describe_files(files: Files, label_images: Sequence[LabelImages]) -> list[str]:
    """What is taken, by ending and folder, in one line; further lines only for what is left out or looks odd.

    Args:
        files: those that are taken.
        label_images: what was left out of them.
    """
    parts = [_some(count_endings(files.names))]
    folders = _count_folders(files)
    if len(folders) > 1:
        parts.append("by folder: " + _some({name or "(no folder)": count for name, count in folders.items()}))
    left = Counter(dict(files.left))
    if others := {ending: count for ending, count in left.items() if ending not in (*OTHER_IMAGES, *PACKED)}:
        parts.append(f"other files: {_some(others)}")
    lines = ["files: " + "; ".join(parts)]
    if label_images:
        groups = _some({group.where: len(group.numbers) for group in label_images})
        lines.append(
            f"left out: masks or other labels of these images, recognized by name and the content of a few: {groups}; "
            "--masks take uses them as images too"
        )
    if images := {ending: count for ending, count in left.items() if ending in OTHER_IMAGES}:
        lines.append(f"not read: {_some(images)}; convert them to PNG or JPEG to use them")
    if packed := {ending: count for ending, count in left.items() if ending in PACKED}:
        lines.append(f"not read: {_some(packed)} next to the images; add them to --data to use their images")
    tests = {name: count for name, count in folders.items() if name.lower() in TESTS}
    if tests and len(folders) > len(tests):
        names = " ".join(f"'{name}/*'" for name in tests)
        lines.append(f"also used: {_some(tests)}; --exclude {names} leaves out such test images")
    return lines


def count_endings(names: Names) -> dict[str, int]:
    """How many names have each of the endings of images, most first; a step for a block of names, not for each."""
    counts: Counter[str] = Counter()
    longest = max(map(len, EXTENSIONS))
    for first in range(0, len(names), AT_ONCE):
        ends = names.ends[first : first + AT_ONCE]
        packed = np.zeros(len(ends), np.int64)
        for back in range(longest, 0, -1):
            letters = names.block[np.maximum(ends - back, 0)].astype(np.int64)
            packed = packed << 8 | np.where((letters >= 65) & (letters <= 90), letters + 32, letters)
        for ending in EXTENSIONS:
            number = int(((packed & ((1 << 8 * len(ending)) - 1)) == int.from_bytes(ending.encode(), "big")).sum())
            counts[ending] += number
    counts["other endings"] = len(names) - counts.total()
    return {ending: count for ending, count in counts.most_common() if count}


def _count_folders(files: Files) -> dict[str, int]:
    """Files by their first folder, or by part of several; empty where that is unknown, or there are too many."""
    inner = files
    while isinstance(inner, ChosenFiles):
        inner = inner.files
    if isinstance(inner, JoinedFiles):
        counts: Counter[str] = Counter()
        start = 0
        for part in inner.parts:
            count = sum(files.counts[start : start + len(part.counts)])
            counts[_short_path(part.location)] += count
            start += len(part.counts)
        return dict(counts.most_common())
    if len(files.counts) > 1 or not _is_sorted(files.names):
        return {}
    found: Counter[str] = Counter()
    for folder, start, end in files.names.prefix_groups():
        found[folder] += end - start
        if len(found) > MAX_FOLDERS or (not folder and found[folder] > MAX_FOLDERS):
            return {}
    return dict(found.most_common())


def _short_path(location: str) -> str:
    """A path relative to the working folder if it lies there."""
    working = os.path.join(os.getcwd(), "")
    return location.removeprefix(working)


def _is_sorted(names: Names) -> bool:
    """Whether names are sorted by their bytes, as those of folders and archives are; of many, neighbors here and there."""
    some = evenly_spaced(len(names) - 1, 2000)
    return all(names.encoded(number) < names.encoded(number + 1) for number in some)


def _some(counts: Mapping[str, int]) -> str:
    """The largest counts with their names, and how many others there are."""
    texts = [f"{count} {printable(name)}" for name, count in Counter(counts).most_common(SHOWN)]
    rest = len(counts) - SHOWN
    if rest > 0:
        others = sum(counts.values()) - sum(count for _, count in Counter(counts).most_common(SHOWN))
        texts.append(f"{others} in {counted(rest, 'other')}")
    return ", ".join(texts)
