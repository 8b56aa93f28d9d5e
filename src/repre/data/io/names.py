"""Many names in one block of bytes: ten million take no Python objects, and worker processes share their memory."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np

Array = np.ndarray

AT_ONCE = 1 << 16
"""Names that `Names.of` joins at once, and that an iteration unpacks at once."""
MAX_ENDING, NO_ENDING = 12, "without an ending"
"""Longer endings count as none."""


class Names:
    """A list of names, of files or members.

    Args:
        block: the bytes of all names, one after another, uint8.
        ends: where each name ends in `block`, int64 [N].
    """

    def __init__(self, block: Array, ends: Array) -> None:
        self.block, self.ends = block, ends

    @classmethod
    def of(cls, names: Iterable[str | bytes]) -> "Names":
        """Packs names; text may hold bytes that are not UTF-8, as `os.fsdecode` returns them."""
        blocks: list[bytes] = []
        ends: list[Array] = []
        total, part = 0, []
        for name in names:
            part.append(name if isinstance(name, bytes) else os.fsencode(name))
            if len(part) == AT_ONCE:
                total = _flush(part, total, blocks, ends)
        _flush(part, total, blocks, ends)
        return cls(np.frombuffer(b"".join(blocks), np.uint8), np.concatenate(ends))

    @classmethod
    def numbered(cls, count: int) -> "Names":
        """The names 0, 1, ... with leading zeros, all of one length."""
        width = len(str(max(count - 1, 0)))
        digits = np.empty((count, width), np.uint8)
        numbers = np.arange(count, dtype=np.int64)
        for column in range(width):
            digits[:, column] = numbers // 10 ** (width - 1 - column) % 10 + ord("0")
        return cls(digits.reshape(-1), width * (numbers + 1))

    @classmethod
    def concatenate(cls, parts: Sequence["Names"]) -> "Names":
        """The names of all parts, one part after another."""
        if len(parts) == 1:
            return parts[0]
        starts = np.cumsum([0, *(len(part.block) for part in parts)])
        ends = np.concatenate([part.ends + start for part, start in zip(parts, starts)])
        return cls(np.concatenate([part.block for part in parts]), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def encoded(self, index: int) -> bytes:
        """The bytes of name `index`."""
        start = 0 if index == 0 else int(self.ends[index - 1])
        return self.block[start : int(self.ends[index])].tobytes()

    def __getitem__(self, index: int) -> str:
        return os.fsdecode(self.encoded(index))

    def between(self, start: int, end: int) -> "Names":
        """The names from `start` up to `end`, in the same memory."""
        first = 0 if start == 0 else int(self.ends[start - 1])
        last = first if start == end else int(self.ends[end - 1])
        return Names(self.block[first:last], self.ends[start:end] - first)

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), AT_ONCE):
            ends = self.ends[first : first + AT_ONCE].tolist()
            start = 0 if first == 0 else int(self.ends[first - 1])
            text = self.block[start : ends[-1]].tobytes()
            offset = start
            for end in ends:
                yield os.fsdecode(text[start - offset : end - offset])
                start = end

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Names):
            return NotImplemented
        return np.array_equal(self.ends, other.ends) and np.array_equal(self.block, other.block)

    __hash__ = None  # type: ignore[assignment]

    def take(self, indices: Array) -> "Names":
        """The names at `indices`, in that order."""
        lengths = np.diff(self.ends, prepend=0)[indices]
        ends = np.cumsum(lengths, dtype=np.int64)
        block = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
        for first in range(0, len(indices), AT_ONCE):  # the places of all bytes take eight times the names
            part = slice(first, first + AT_ONCE)
            begin = ends[part] - lengths[part]
            offset = int(begin[0])
            places = np.arange(offset, int(ends[part][-1])) + np.repeat(
                self.ends[indices[part]] - lengths[part] - begin, lengths[part]
            )
            block[offset : offset + len(places)] = self.block[places]
        return Names(block, ends)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the names in their order."""
        digest = hashlib.sha256(np.ascontiguousarray(self.ends).data)
        digest.update(np.ascontiguousarray(self.block).data)
        return digest.hexdigest()

    def prefix_groups(self, start: int = 0, end: int | None = None, *, skip: int = 0) -> Iterator[tuple[str, int, int]]:
        """The first folder of names that are sorted by their bytes: (folder, first index, index after the last) for each.

        A name without a folder is a group of its own, with the folder "". It takes a search for each folder, not a step for
        each name in it.

        Args:
            start, end: the names that are looked at.
            skip: bytes with which all of them begin, and which are left out.
        """
        end = len(self) if end is None else end
        while start < end:
            name = self.encoded(start)
            folder, slash, _ = name[skip:].partition(b"/")
            after = start + 1
            if slash:
                after = self._first_beyond(name[:skip] + folder + b"0", start, end)  # "0" follows "/"
            yield os.fsdecode(folder) if slash else "", start, after
            start = after

    def folder_range(self, folder: str) -> tuple[int, int]:
        """The first name in a folder and the one after the last, of names that are sorted by their bytes."""
        name = os.fsencode(folder)
        first = self._first_beyond(name + b"/", 0, len(self))
        return first, self._first_beyond(name + b"0", first, len(self))  # "0" follows "/"

    def _first_beyond(self, bound: bytes, low: int, high: int) -> int:
        while low < high:
            middle = (low + high) // 2
            if self.encoded(middle) < bound:
                low = middle + 1
            else:
                high = middle
        return low


def _flush(part: list[bytes], total: int, blocks: list[bytes], ends: list[Array]) -> int:
    joined = b"".join(part)
    blocks.append(joined)
    ends.append(np.cumsum([len(name) for name in part], dtype=np.int64) + total)
    part.clear()
    return total + len(joined)


def ending_of(name: str) -> str:
    """The ending of a file name in lower case, with its dot; `NO_ENDING` without one."""
    ending = os.path.splitext(name)[1].lower()
    return ending if 1 < len(ending) <= MAX_ENDING else NO_ENDING
