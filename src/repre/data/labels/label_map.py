"""Which class a pixel of a mask file stands for: numbers of classes, colors of a table, and what is ignored.

H, W  height and width
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from PIL import Image

from repre.data.io.image_kinds import FORMATS
from repre.data.labels.mask_colors import ColorTable, pack, unpack
from repre.errors import BadImage, UserError, near_names

Array = np.ndarray

IGNORE = 255
"""Label of pixels that count neither in a loss nor in a metric."""
NUMBERS = ("L", "P", "1", "I", "I;16", "I;16B")
"""Pillow's modes of masks that hold numbers: gray values or indices of a palette."""
TABLE_SIZE = 1 << 16


@dataclass(frozen=True, kw_only=True)
class MaskOptions:
    """How the pixels of mask files become classes."""

    colors: str | None = None
    """Table of the classes' colors, a line `class: r,g,b` each, or a CSV with the header name,r,g,b. None: color
    masks use colors.txt or class_dict.csv next to their folder; other masks hold class numbers."""
    ignore_label: tuple[int | str, ...] = ()
    """Numbers or names of classes to leave out of loss and metric; 255 is left out too, unless it is a class."""
    reduce_zero_label: bool = False
    """Ignore the number 0; 1 becomes the first class and the first name of classes.txt."""
    binary: bool = False
    """The masks have two classes: 0, and 255 or 1."""
    skip_unlabeled: bool = False
    """Leave out images that have no mask."""
    accept_labels: bool = False
    """Accept the labels as read, even if they look wrong, such as numbers with gaps."""

    def __post_init__(self) -> None:
        for label in self.ignore_label:
            if isinstance(label, int) and not 0 <= label < 1 << 31:
                raise UserError(f"--ignore-label takes numbers of classes, 0 or more, and names, not {label}")
        if self.binary and (self.colors is not None or self.reduce_zero_label):
            raise UserError("binary masks have the classes 0 and 255: leave out --colors and --reduce-zero-label")

    def only_masks(self) -> "MaskOptions":
        """Returns these options without the fields of a subclass."""
        return MaskOptions(**{one.name: getattr(self, one.name) for one in fields(MaskOptions)})


class LabelMap:
    """The classes of mask files.

    Args:
        entries: name and values in the files of every class, by its number; numbers may have gaps.
        options: what is ignored.
        table: the table that the values come from; None if they are the numbers of the classes.
        strict: whether there have to be 2 to 255 classes; False for a report, in which `ignore_index` is no class.

    Attributes:
        classes: names of the classes that are left, in order of their numbers.

    Raises:
        UserError: a name to ignore is no class, or fewer than two or more than 255 classes are left.
    """

    def __init__(
        self,
        entries: Mapping[int, tuple[str, Sequence[int]]],
        options: MaskOptions,
        *,
        table: ColorTable | None = None,
        strict: bool = True,
    ) -> None:
        self.table = table
        self.ignore_index = IGNORE if strict else -2
        ignored = set(_ignored_numbers(entries, options))
        kept = {number: entry for number, entry in sorted(entries.items()) if number not in ignored}
        if strict and not 2 <= len(kept) <= IGNORE:
            raise UserError(f"{len(kept)} classes are left of {len(entries)}; there have to be 2 to {IGNORE}")
        self.classes = [name for name, _ in kept.values()]
        self.values = [list(values) for _, values in kept.values()]
        class_of = {value: index for index, values in enumerate(self.values) for value in values}
        of_ignored = {value for number in ignored & entries.keys() for value in entries[number][1]}
        if not self.in_color:
            of_ignored |= {number for number in ignored if number not in entries} | {IGNORE}
        self.ignored = sorted(of_ignored - class_of.keys())
        class_of |= dict.fromkeys(self.ignored, self.ignore_index)
        self._keys = np.array(sorted(class_of), np.int64)
        self._classes = np.array([class_of[value] for value in self._keys.tolist()], np.int64)
        self._direct: Array | None = None
        if int(self._keys[-1]) < TABLE_SIZE:  # by index, which is faster than by search
            self._direct = np.full(TABLE_SIZE + 1, -1, np.int16)
            self._direct[self._keys] = self._classes

    @property
    def in_color(self) -> bool:
        """Whether the values are colors."""
        return self.table is not None and self.table.in_color

    def read(self, path: Path) -> Array:
        """Reads the values of a mask file, whole numbers [H, W]; UserError if it is damaged."""
        return read_colors(path) if self.in_color else read_labels(path)

    def classify(self, values: Array) -> Array:
        """The class of every value, int16 [H, W]: `ignore_index` where it is ignored, -1 where it is unknown."""
        if self._direct is not None and values.dtype in (np.uint8, np.uint16):
            return self._direct[values]
        if self._direct is not None:
            return self._direct[np.where((values < 0) | (values >= TABLE_SIZE), TABLE_SIZE, values)]
        position = np.searchsorted(self._keys, values).clip(max=len(self._keys) - 1)
        return np.where(self._keys[position] == values, self._classes[position], -1).astype(np.int16)

    def to_classes(self, path: Path, values: Array) -> Array:
        """The class of every value of a mask file, uint8 [H, W].

        Raises:
            UserError: a value is unknown; names the file, the value and its first pixel.
        """
        classes = self.classify(values)
        if classes.min(initial=0) < 0:
            raise BadImage(self.explain(path, values, classes))
        return classes.astype(np.uint8)

    def explain(self, path: Path, values: Array, classes: Array) -> str:
        """What is wrong with the unknown values of a mask file."""
        unknown = classes < 0
        value = int(values[unknown].max())
        row, column = (int(index) for index in np.argwhere(unknown & (values == value))[0])
        where = f"first at row {row}, column {column}"
        if self.in_color:
            assert self.table is not None
            color = np.array(unpack(value))
            known = [(name, unpack(one)) for name, ones in zip(self.classes, self.values) for one in ones]
            name, nearest = min(known, key=lambda entry: float(((color - np.array(entry[1])) ** 2).sum()))
            return (
                f"{path} holds the color {_text(unpack(value))} ({where}), which is not in {self.table.file}; the nearest "
                f"is {name}: {_text(nearest)}. Add the color to the table"
            )
        ignored = f", and {ranges(self.ignored)} for pixels to ignore" if self.ignored else ""
        return (
            f"{path} holds the label {value} ({where}), but there are {len(self.classes)} classes: labels are "
            f"{ranges(value for values in self.values for value in values)}{ignored}; --ignore-label {value} ignores it"
        )

    def identity(self) -> str:
        """Text that changes with the meaning of a mask."""
        return repr((self.classes, self.values, self.ignored, self.in_color))


def _ignored_numbers(entries: Mapping[int, tuple[str, Sequence[int]]], options: MaskOptions) -> Iterable[int]:
    numbers = {name: number for number, (name, _) in entries.items()}
    if options.reduce_zero_label:
        yield 0
    for label in options.ignore_label:
        if isinstance(label, int) or label.isdecimal():
            yield int(label)
        elif label in numbers:
            yield numbers[label]
        else:
            raise UserError(f"--ignore-label {label}: no class has that name{near_names(label, numbers)}")


def ranges(values: Iterable[int]) -> str:
    """Numbers as text: "0 to 3, 7"."""
    parts: list[list[int]] = []
    for value in sorted(values):
        if parts and value == parts[-1][1] + 1:
            parts[-1][1] = value
        else:
            parts.append([value, value])
    return ", ".join(f"{first}" if first == last else f"{first} to {last}" for first, last in parts)


def _text(color: tuple[int, int, int]) -> str:
    return ",".join(map(str, color))


# --------------------------------------------------------------------------------------------------------- mask files


def count_values(values: Array) -> tuple[Array, Array]:
    """The values that occur, sorted, and the number of pixels of each."""
    if values.dtype not in (np.uint8, np.uint16):
        return np.unique(values, return_counts=True)
    counts = np.bincount(values.ravel())  # several times as fast
    found = np.flatnonzero(counts)
    return found, counts[found]


def read_labels(path: Path) -> Array:
    """Reads the numbers of a gray or palette PNG, [H, W] in the type of the file.

    Raises:
        UserError: the file is missing or damaged, or it holds colors.
    """
    return _read(path, in_color=False)


def read_colors(path: Path) -> Array:
    """Reads the colors of a PNG, packed to int64 [H, W]; a gray value v is the color v,v,v.

    Raises:
        UserError: the file is missing or damaged.
    """
    return _read(path, in_color=True)


def is_in_color(path: Path) -> bool:
    """Whether a mask holds colors, by its header; False if it cannot be read."""
    try:
        with Image.open(path, formats=FORMATS) as file:
            return file.mode not in NUMBERS
    except Exception:  # damaged files raise anything
        return False


def _without_table(path: Path, file: Image.Image) -> str:
    """What is wrong with a mask in color if no table names its classes."""
    colors = np.asarray(file.convert("RGB"))
    if (colors == colors[..., :1]).all():
        return (
            f"{path} is a picture with colors ({file.mode}) that are all gray; save one channel as a gray PNG if its "
            f"values are the numbers of classes, or name a table of colors with --colors"
        )
    found = [_text(unpack(value)) for value in np.unique(pack(colors)).tolist()]
    listed = "; ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "")
    return (
        f"{path} is a picture with colors ({file.mode}), and no table maps them to classes. It holds {listed}. "
        "Write colors.txt next to the folder with a line `class: r,g,b` for each, or name such a file with --colors"
    )


def _read(path: Path, *, in_color: bool) -> Array:
    try:
        with Image.open(path, formats=FORMATS) as file:
            if in_color:
                return pack(np.asarray(file.convert("RGB")))
            if file.mode not in NUMBERS:
                raise BadImage(_without_table(path, file))
            values = np.asarray(file)
            return values.astype(np.uint8) if values.dtype == np.bool_ else values
    except FileNotFoundError as error:
        raise BadImage(f"there is no mask {path}") from error
    except UserError:
        raise
    except Exception as error:  # damaged files raise anything
        raise BadImage(f"the mask {path} cannot be read: {error}") from error
