"""Numbers in masks that are probably no numbers of classes: gray values, numbers with gaps, 255 nearly everywhere.

Masks whose classes are named by a table or a classes.txt are not checked: their values are known.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from repre.data.labels.label_map import IGNORE, MaskOptions, count_values, ranges, read_labels
from repre.data.labels.problems import Problems
from repre.errors import UserError
from repre.utils.progress import track

PICTURE_VALUES, PICTURE_CHANGES = 32, 0.5
"""A mask with more values than this, in which more than this share of neighboring pixels differ, is a photograph."""
SMOOTHED_VALUES, SMOOTHED_COVER = 16, 0.9
"""Masks with more values than this, of which the lowest and the highest cover more than this, have smoothed edges."""
MOST_ABSENT = 0.5
"""With a larger share of numbers that never occur, numbers are probably not those of classes."""
MOST_IGNORED = 0.5
"""With a larger share of pixels of 255, that is probably a class."""


@dataclass
class MaskValues:
    """The numbers that occur in masks.

    Attributes:
        pixels: pixels of every number.
        pictures: masks that look like photographs.
        damaged: what is wrong with masks that cannot be read.
    """

    pixels: Counter[int] = field(default_factory=Counter)
    pictures: list[Path] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)

    @property
    def seen(self) -> list[int]:
        """The numbers, sorted."""
        return sorted(self.pixels)

    def share(self, values: Iterable[int]) -> float:
        """Share of the pixels that have one of some numbers."""
        return sum(self.pixels[value] for value in values) / max(1, self.pixels.total())


@lru_cache(maxsize=4)
def values_in(masks: tuple[Path, ...], modified: tuple[int, ...]) -> MaskValues:
    """The numbers in masks. They are read once, and again if one of them was modified."""
    assert len(masks) == len(modified)
    found = MaskValues()
    for path in track(masks, "masks", total=len(masks), unit="mask"):
        try:
            labels = read_labels(path)
        except UserError as error:
            found.damaged.append(str(error))
            continue
        values, counts = count_values(labels)
        found.pixels.update(dict(zip(values.tolist(), counts.tolist())))
        if len(values) > PICTURE_VALUES and np.mean(labels[:, 1:] != labels[:, :-1]) > PICTURE_CHANGES:
            found.pictures.append(path)
    return found


def check_values(masks: tuple[Path, ...], found: MaskValues, options: MaskOptions, problems: Problems) -> list[str]:
    """Checks the numbers in masks without names of classes, and tells in notes what is ignored and what never occurs.

    Args:
        masks: the files.
        found: their numbers.
        options: which are ignored.
        problems: takes the doubts.

    Raises:
        UserError: they are doubtful, and nothing is collected or accepted.
    """
    ignored = {int(label) for label in options.ignore_label if str(label).isdecimal()}
    counted = [label for label in found.seen if label != IGNORE and label not in ignored]
    count = counted[-1] + 1
    known = {*counted, *ignored, *((0,) if options.reduce_zero_label else ())}
    never = sorted(set(range(count)) - known)
    place = f"masks such as {masks[0]}"
    table = "Name the classes in a table with a line `class: number` each, and give it with --colors"
    if len(found.pictures) > len(masks) / 2:
        problems.doubt(
            f"{len(found.pictures)} of {len(masks)} masks look like photographs: in {found.pictures[0]} most neighboring "
            f"pixels differ. Their gray values would be {count} classes. Write pairs:IMAGES,MASKS in that order"
        )
    elif _are_smoothed(found):
        low, high = found.seen[0], found.seen[-1]
        problems.doubt(
            f"{place} hold {low} and {high} in {found.share((low, high)):.0%} of the pixels and {len(found.seen) - 2} "
            f"values between them, as smoothed edges do; they would be {count} classes. Resize masks to the nearest "
            "pixel and save them as PNG without JPEG in between; masks of 0 and 255 are read with --binary"
        )
    elif len(never) > MOST_ABSENT * count:
        example = (
            ", ".join(f"`class {n}: {value}`" for n, value in enumerate(found.seen)) if len(found.seen) < 6 else ""
        )
        problems.doubt(
            f"{place} hold the values {ranges(found.seen)[:200]}"
            f"{f', of which {IGNORE} is ignored' if IGNORE in found.seen else ''}. The largest means {count} classes, "
            f"but {len(never)} of them never occur. {table}{f'; here the lines are {example}' if example else ''}"
        )
    elif len(counted) == 1 and not options.ignore_label:
        problems.doubt(f"{place} hold one label only, {counted[0]}, and a single class cannot be learned. {table}")
    notes = [f"{len(never)} of {count} classes occur in no mask: {ranges(never)}"] if never else []
    if IGNORE in found.pixels and IGNORE not in ignored:
        share = found.share([IGNORE])
        if share > MOST_IGNORED and not problems.accept:
            problems.add(
                f"{place} hold {IGNORE} in {share:.0%} of the pixels, and {IGNORE} is ignored. If that is right, confirm it "
                f"with --ignore-label {IGNORE}; if it is a class, name the classes in a table with a line `class: number` "
                "each, and give it with --colors"
            )
        notes.append(f"{IGNORE} is ignored: {share:.1%} of the pixels of all masks")
    return notes


def _are_smoothed(found: MaskValues) -> bool:
    low, high = found.seen[0], found.seen[-1]
    return len(found.seen) > SMOOTHED_VALUES and found.share((low, high)) > SMOOTHED_COVER
