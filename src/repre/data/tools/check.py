"""Reads every image of a source once, as a run would, and says what is in it: before days are spent on it."""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from repre.data.io.decode import UnreadableImage
from repre.data.io.sources import Source
from repre.data.loading.workers import in_workers, load_tracked

SHOWN = 20
"""Most unreadable files and groups of copies that are named."""


class Seen(NamedTuple):
    """What one image is."""

    place: int
    size: tuple[int, int]
    kind: str
    digest: bytes
    flat: bool
    reason: str


@dataclass
class Findings:
    """What a source holds.

    Attributes:
        count: images in all.
        unreadable: what they are called, and why.
        sizes: how many images have which height and width.
        kinds: how many have which type of pixels.
        copies: groups of images with the same pixels.
        flat: images of one color.
    """

    count: int = 0
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    copies: list[list[str]] = field(default_factory=list)
    flat: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The findings for people."""
        said = [f"{self.count} images, {len(self.unreadable)} unreadable"]
        if self.sizes:
            short = np.sort(np.repeat([min(size) for size in self.sizes], list(self.sizes.values())))
            common = ", ".join(f"{h} x {w} ({n})" for (h, w), n in self.sizes.most_common(3))
            said.append(f"short side: {short[0]} to {short[-1]} pixels, median {int(np.median(short))}; most: {common}")
            said.append("pixels: " + ", ".join(f"{kind} ({n})" for kind, n in self.kinds.most_common()))
        said += _some("unreadable", [f"{name}: {reason}" for name, reason in self.unreadable])
        spare = sum(len(group) - 1 for group in self.copies)
        said += _some(f"copies of other images ({spare})", [" = ".join(group[:4]) for group in self.copies])
        said += _some("of one color", self.flat)
        return said


def check(source: Source, *, workers: int) -> Findings:
    """Decodes all images of `source`.

    Raises:
        RunError: a worker process died.
    """
    found = Findings(count=len(source))
    alike: dict[bytes, list[int]] = {}
    for seen in in_workers(_Look(source), range(len(source)), workers=workers):
        if seen.reason:
            found.unreadable.append((source.describe(seen.place), seen.reason))
            continue
        found.sizes[seen.size] += 1
        found.kinds[seen.kind] += 1
        alike.setdefault(seen.digest, []).append(seen.place)
        if seen.flat:
            found.flat.append(source.describe(seen.place))
    found.copies = [[source.describe(i) for i in group] for group in alike.values() if len(group) > 1]
    return found


class _Look(Dataset[Seen]):
    def __init__(self, source: Source) -> None:
        self.source = source

    def __getitem__(self, index: int) -> Seen:
        try:
            image = load_tracked(self.source, index)
        except UnreadableImage as error:
            return Seen(index, (0, 0), "", b"", False, str(error))
        height, width, channels = image.shape
        kind = f"{channels} channel{'s' if channels > 1 else ''} of {image.dtype}"
        digest = hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).digest()
        return Seen(index, (height, width), kind, digest, bool((image == image[:1, :1]).all()), "")


def _some(what: str, names: list[str]) -> list[str]:
    """A heading and the first names, where there are any."""
    if not names:
        return []
    more = [f"  and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return [f"{what}:", *(f"  {name}" for name in names[:SHOWN]), *more]
