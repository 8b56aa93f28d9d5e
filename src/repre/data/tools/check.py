"""Reads every image of a source once, as a run would, and reports what it finds: before days are spent on training."""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from repre.data.io.decode import UnreadableImage
from repre.data.io.frame_notes import noting_frames
from repre.data.io.label_images import Look, look_at
from repre.data.io.sources import Source, describe_source
from repre.data.io.value_ranges import check_values
from repre.data.loading.workers import in_workers, load_tracked
from repre.errors import UserError, counted

MAX_NAMES = 20
"""Most names of each kind of finding in the report."""


class ImageFacts(NamedTuple):
    """What is known of one image.

    Attributes:
        number: index in the source.
        size: height and width.
        kind: number of channels and dtype.
        digest: SHA-256 of shape and pixels.
        flat: whether all pixels have one color.
        look: whether it is gray, and looks like a mask.
        several: whether the file holds further frames or pages, which are not used.
        reason: why the image is unreadable; empty if it is readable.
    """

    number: int
    size: tuple[int, int]
    kind: str
    digest: bytes
    flat: bool
    look: Look
    several: bool
    reason: str


@dataclass
class Findings:
    """What a source holds.

    Attributes:
        count: number of images.
        unreadable: name and reason of every unreadable image.
        sizes: number of images of each height and width.
        kinds: number of images of each type of pixels.
        copies: groups of images with the same pixels.
        flat: images of one color.
        several: files with several frames or pages.
        gray: number of gray images beside colored ones.
        like_masks: images of few flat colors.
        taken: which files are used, and which are not.
        values: why the values of the pixels do not fit their range; empty if they do.
    """

    count: int = 0
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    copies: list[list[str]] = field(default_factory=list)
    flat: list[str] = field(default_factory=list)
    several: list[str] = field(default_factory=list)
    gray: int = 0
    like_masks: list[str] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    values: str = ""

    def lines(self) -> list[str]:
        """The report, line by line."""
        lines = [*self.taken, f"{self.count} images, {len(self.unreadable)} unreadable"]
        if self.sizes:
            short = np.sort(np.repeat([min(size) for size in self.sizes], list(self.sizes.values())))
            common = ", ".join(f"{h} x {w} ({n})" for (h, w), n in self.sizes.most_common(3))
            lines.append(
                f"short side: {short[0]} to {short[-1]} pixels, median {int(np.median(short))}; most: {common}"
            )
            kinds = ", ".join(f"{kind} ({n})" for kind, n in self.kinds.most_common())
            lines.append(f"pixels: {kinds}" + (f"; {self.gray} of them are gray" if self.gray else ""))
        if self.values:
            lines.append(self.values)
        if self.like_masks:
            lines.append(
                f"{counted(len(self.like_masks), 'image')} of few flat colors, like masks or drawings, such as "
                f"{self.like_masks[0]}; if they are not training images, leave them out with --exclude"
            )
        lines += list_names("unreadable", [f"{name}: {reason}" for name, reason in self.unreadable])
        copies = sum(len(group) - 1 for group in self.copies)
        lines += list_names(f"copies of other images ({copies})", [" = ".join(group[:4]) for group in self.copies])
        lines += list_names("of one color", self.flat)
        hold = "1 file holds" if len(self.several) == 1 else f"{len(self.several)} files hold"
        lines += list_names(f"{hold} several frames or pages; only the first one is used", self.several)
        return lines


def check(source: Source, *, workers: int) -> Findings:
    """Decodes all images of `source`.

    Raises:
        RunError: a worker process died.
    """
    findings = Findings(count=len(source), taken=describe_source(source))
    by_digest: dict[bytes, list[int]] = {}
    for facts in in_workers(_Facts(source), range(len(source)), workers=workers):
        if facts.reason:
            findings.unreadable.append((source.describe(facts.number), facts.reason))
            continue
        findings.sizes[facts.size] += 1
        findings.kinds[facts.kind] += 1
        by_digest.setdefault(facts.digest, []).append(facts.number)
        findings.gray += not facts.look.colored
        if facts.look.flat and not facts.flat:
            findings.like_masks.append(source.describe(facts.number))
        if facts.flat:
            findings.flat.append(source.describe(facts.number))
        if facts.several:
            findings.several.append(source.describe(facts.number))
    if len(findings.unreadable) < len(source):
        try:
            check_values(source, None)
        except UserError as error:
            findings.values = str(error)
    if findings.gray == len(source) - len(findings.unreadable):  # all are
        findings.gray = 0
    findings.copies = [[source.describe(i) for i in group] for group in by_digest.values() if len(group) > 1]
    return findings


class _Facts(Dataset[ImageFacts]):
    """Item i is what is known of image i."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __getitem__(self, index: int) -> ImageFacts:
        try:
            with noting_frames() as note:
                image = load_tracked(self.source, index)
        except UnreadableImage as error:
            return ImageFacts(index, (0, 0), "", b"", False, Look(flat=False, colored=True), False, str(error))
        height, width, channels = image.shape
        kind = f"{channels} channel{'s' if channels > 1 else ''} of {image.dtype}"
        digest = hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).digest()
        flat = bool((image == image[:1, :1]).all())
        return ImageFacts(index, (height, width), kind, digest, flat, look_at(image), note.several, "")


def list_names(heading: str, names: list[str]) -> list[str]:
    """A heading and the first names, if there are any."""
    if not names:
        return []
    more = [f"  and {len(names) - MAX_NAMES} more"] if len(names) > MAX_NAMES else []
    return [f"{heading}:", *(f"  {name}" for name in names[:MAX_NAMES]), *more]
