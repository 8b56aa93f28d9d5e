"""Several files as one: parts one after another, some of the files, or the files that a run began with."""

from collections import Counter
from collections.abc import Sequence
from fnmatch import translate
from re import compile as compile_pattern
from typing import BinaryIO

import numpy as np

from repre.data.io.image_files import Files, Stamp
from repre.data.io.image_limits import UnreadableImage
from repre.data.io.names import Names
from repre.errors import UserError

Array = np.ndarray


class JoinedFiles:
    """The files of several parts, one part after another."""

    def __init__(self, parts: Sequence[Files]) -> None:
        self.parts = parts
        self.counts = [count for part in parts for count in part.counts]
        self.names = Names.concatenate([part.names for part in parts])
        self.location = ", ".join(part.location for part in parts)
        self.left = dict(sum((Counter(part.left) for part in parts), Counter()))
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return len(self.names)

    def _find(self, index: int) -> tuple[Files, int]:
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self.parts[part], index - (int(self._ends[part - 1]) if part else 0)

    def open(self, index: int) -> BinaryIO:
        part, number = self._find(index)
        return part.open(number)

    def stamp(self, index: int) -> Stamp:
        part, number = self._find(index)
        return part.stamp(number)

    def describe(self, index: int) -> str:
        part, number = self._find(index)
        return part.describe(number)


class ChosenFiles:
    """Some of the files of another, in an order of its own.

    Args:
        files: the other.
        names: of the chosen files.
        numbers: which files of the other they are, int64 [N]; -1 for one that is not there any more.
        counts: files of each part.
    """

    def __init__(self, files: Files, names: Names, numbers: Array, counts: list[int]) -> None:
        self.files, self.names, self.numbers, self.counts = files, names, numbers, counts
        self.location, self.left = files.location, files.left

    def __len__(self) -> int:
        return len(self.names)

    def open(self, index: int) -> BinaryIO:
        return self.files.open(self._number(index))

    def stamp(self, index: int) -> Stamp:
        return self.files.stamp(self._number(index))

    def _number(self, index: int) -> int:
        number = int(self.numbers[index])
        if number < 0:
            raise UnreadableImage("the file has vanished")
        return number

    def describe(self, index: int) -> str:
        number = int(self.numbers[index])
        return self.names[index] if number < 0 else self.files.describe(number)


def filter_files(files: Files, *, include: Sequence[str], exclude: Sequence[str]) -> Files:
    """The files whose names match a pattern of `include` (any, if there is none) and no pattern of `exclude`.

    Patterns are those of a shell, for the path relative to the folder or archive; `*` also stands for slashes.

    Raises:
        UserError: no file is left.
    """
    if not include and not exclude:
        return files
    wanted, unwanted = (
        compile_pattern("|".join(map(translate, patterns))) if patterns else None for patterns in (include, exclude)
    )
    kept = np.fromiter(
        (
            (wanted is None or wanted.match(name) is not None) and (unwanted is None or unwanted.match(name) is None)
            for name in files.names
        ),
        bool,
        len(files),
    )
    if not kept.any():
        patterns = " ".join([f"--include {pattern!r}" for pattern in include] + [f"--exclude {p!r}" for p in exclude])
        raise UserError(
            f"--data: {patterns} leaves none of the {len(files)} images of {files.location}, such as {files.names[0]}; "
            "a pattern must match the whole name, * matches anything"
        )
    numbers = np.flatnonzero(kept)
    counts = [int(part.sum()) for part in np.split(kept, np.cumsum(files.counts)[:-1])]
    return ChosenFiles(files, files.names.take(numbers), numbers, counts)
