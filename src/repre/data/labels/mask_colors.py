"""Tables of the colors, or the numbers, that stand for the classes in mask files.

road: 128,64,128          one class in every line of a text file; two lines may name one class
128 64 128 road           the same, as CamVid's label_colors.txt
name,r,g,b                a CSV with this header, as CamVid's class_dict.csv; other columns are not read
road: 7                   numbers instead of colors, for gray masks whose numbers have gaps
"""

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from repre.errors import UserError
from repre.utils.os_errors import reason_of

Array = np.ndarray

USUAL_NAMES = ("colors.txt", "class_dict.csv", "label_colors.txt")
"""Names of tables that are found beside masks in color."""
NAME_FIRST = re.compile(r"(?P<name>.+?)\s*[:=\t]\s*(?P<numbers>\d+(?:[\s,;]+\d+)*)")
NUMBERS_FIRST = re.compile(r"(?P<numbers>\d+[\s,;]+\d+[\s,;]+\d+)\s+(?P<name>\D.*)")


@dataclass(frozen=True)
class ColorTable:
    """The classes of a table.

    Attributes:
        file: the table.
        values: numbers of every class by its name, in the order of the table; a color is packed, see `pack`.
        in_color: whether they are colors.
    """

    file: Path
    values: dict[str, list[int]]
    in_color: bool


def pack(colors: Array) -> Array:
    """Packs colors, uint8 [..., 3], to one number each, int64 [...]: red * 65536 + green * 256 + blue."""
    wide = colors.astype(np.int64)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


def unpack(value: int) -> tuple[int, int, int]:
    """The color of a packed number."""
    return value >> 16, value >> 8 & 255, value & 255


def read_color_table(file: Path) -> ColorTable:
    """Reads a table; see the top of this file.

    Raises:
        UserError: there is no such file, or a line is wrong; names file and line.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the table of colors {file}: {reason_of(error)}") from error
    rows = _csv_rows(file, text) if file.suffix.lower() == ".csv" else _text_rows(file, text)
    values: dict[str, list[int]] = {}
    owners: dict[int, str] = {}
    lengths = {len(numbers) for _, _, numbers in rows}
    if not lengths <= {3} and not lengths <= {1}:
        raise UserError(f"{file}: write a color (r,g,b) for every class, or one number for every class")
    for line, name, numbers in rows:
        if len(numbers) == 3 and max(numbers) > 255:
            raise UserError(f"{file} line {line}: {','.join(map(str, numbers))} is not a color; values are 0 to 255")
        value = numbers[0] if len(numbers) == 1 else int(pack(np.array(numbers)))
        owner = owners.setdefault(value, name)
        if owner != name:
            raise UserError(f"{file} line {line}: {','.join(map(str, numbers))} already stands for {owner!r}")
        if value not in values.setdefault(name, []):
            values[name].append(value)
    if len(values) < 2:
        raise UserError(f"{file} names {len(values)} classes; write at least two lines `class: r,g,b`")
    return ColorTable(file, values, lengths == {3})


def _text_rows(file: Path, text: str) -> list[tuple[int, str, list[int]]]:
    rows = []
    for line, content in enumerate(text.splitlines(), start=1):
        if not content.strip() or content.lstrip().startswith("#"):
            continue
        match = NUMBERS_FIRST.fullmatch(content.strip()) or NAME_FIRST.fullmatch(content.strip())
        if match is None:
            raise UserError(f"{file} line {line}: {content.strip()[:60]!r} is not `class: r,g,b`")
        numbers = [int(word) for word in re.findall(r"\d+", match["numbers"])]
        if len(numbers) not in (1, 3):
            raise UserError(f"{file} line {line}: {len(numbers)} numbers; a color has three (r,g,b)")
        rows.append((line, match["name"].strip(), numbers))
    return rows


def _csv_rows(file: Path, text: str) -> list[tuple[int, str, list[int]]]:
    reader = csv.DictReader(text.splitlines(), skipinitialspace=True)
    reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or []]
    if not {"name", "r", "g", "b"} <= set(reader.fieldnames):
        raise UserError(f"{file}: the header has to be name,r,g,b, not {','.join(reader.fieldnames)}")
    rows = []
    for cells in reader:
        name, *colors = (str(cells[column] or "").strip() for column in ("name", "r", "g", "b"))
        if not name or not all(color.isdecimal() for color in colors):
            raise UserError(f"{file} line {reader.line_num}: {name},{','.join(colors)} is not name,r,g,b")
        rows.append((reader.line_num, name, [int(color) for color in colors]))
    return rows
