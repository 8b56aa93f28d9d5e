"""A table (CSV) with the columns path, label and optionally split: one image a row, several labels in one cell."""

import csv
import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from repre.data.io.image_files import Decoding, FileSource
from repre.data.io.local_files import LocalFiles, is_file, is_folder
from repre.data.io.names import Names
from repre.data.labels.problems import Problems
from repre.data.labels.splits import LabeledImages
from repre.errors import UserError, near_names
from repre.utils.os_errors import reason_of

SPLITS = ("train", "val", "test")
WHOLE = "whole"
"""Name of the only part of data without splits."""
SEPARATORS = ";|"
"""Characters between several labels in one cell of a table."""
FEW_SEVERAL = 0.1
"""A smaller share of rows with several labels is probably a mistake in these rows."""
MAX_SHOWN = 120
"""Characters of a name in a message."""


@dataclass(frozen=True)
class _Row:
    line: int
    path: str
    labels: list[str]
    split: str


def read_table(
    spec: str, file: Path, decoding: Decoding, problems: Problems, *, like: LabeledImages | None
) -> dict[str, LabeledImages]:
    """Reads the images of a table and their labels; the splits by name, or `WHOLE` without a column of splits.

    Args:
        spec: the whole ``--data`` string.
        file: the table.
        decoding: see `Decoding`.
        problems: takes doubts about the labels.
        like: training images, if the table must have their classes.

    Raises:
        UserError: a cell is wrong; names its line.
    """
    rows = _rows(file)
    multilabel = any(len(row.labels) > 1 for row in rows) or (like is not None and like.multilabel)
    if like is None:
        _check_several(file, rows, problems)
    splits = [split for split in (*SPLITS, WHOLE) if any(row.split == split for row in rows)]
    if splits[0] not in ("train", WHOLE) and like is None:
        raise UserError(f"{file}: no row has the split train")
    known = like.classes if like else sorted({x for row in rows if row.split == splits[0] for x in row.labels})
    if len(known) < 2 and not multilabel:
        raise UserError(f"{file}: one class only, {known[0]}; at least two are needed")
    class_index = {name: index for index, name in enumerate(known)}
    for row in rows:
        for label in row.labels:
            if label not in class_index:
                near = near_names(label, known)
                raise UserError(f"{file} line {row.line}: no training image has the label {label!r}{near}")
    parts = {}
    for split in splits:
        split_rows = [row for row in rows if row.split == split]
        files = LocalFiles(file.parent, Names.of(row.path for row in split_rows))
        source = FileSource(spec, files, **decoding)
        if multilabel:
            targets = np.zeros((len(split_rows), len(known)), np.float32)
            for number, row in enumerate(split_rows):
                targets[number, [class_index[label] for label in row.labels]] = 1
        else:
            targets = np.array([class_index[row.labels[0]] for row in split_rows], np.int64)
        parts[split] = LabeledImages(source, targets, classes=known)
    return parts


def _check_several(file: Path, rows: list[_Row], problems: Problems) -> None:
    several = [row for row in rows if len(row.labels) > 1]
    if several and len(several) < FEW_SEVERAL * len(rows):
        problems.doubt(
            f"{file}: {len(several)} of {len(rows)} rows have several labels, the first in line {several[0].line}: "
            f"{_short(';'.join(several[0].labels))}; so every image would count as multi-label, with mean average "
            "precision as metric. Write one label in these rows"
        )


def _rows(file: Path) -> list[_Row]:
    """Reads the rows of a table and checks every cell."""
    reader = csv.DictReader(io.StringIO(_text(file), newline=""), skipinitialspace=True)
    try:
        columns = [name.strip() for name in reader.fieldnames or []]
        reader.fieldnames = columns
        cells_of_lines = [(reader.line_num, cells) for cells in reader]
    except csv.Error as error:
        raise UserError(f"{file} line {reader.line_num}: {error}; is it a table?") from error
    _check_columns(file, columns, cells_of_lines[0][1] if cells_of_lines else {})
    rows = [_row(file, line, cells, columns) for line, cells in cells_of_lines]
    if not rows:
        raise UserError(f"{file} has no rows below its header")
    missing = [row for row in rows if not is_file(file.parent / row.path)]
    if missing:
        count = f"{len(missing)} of {len(rows)} images do not exist, the first is in " if len(missing) > 1 else ""
        raise UserError(
            f"{file}: {count}line {missing[0].line}: there is no image {_short(file.parent / missing[0].path)}"
        )
    lines: dict[str, int] = {}
    for row in rows:
        path = os.path.normpath(row.path)
        if path in lines:
            raise UserError(
                f"{file} line {row.line}: {row.path} is already in line {lines[path]}; name every image once, "
                "and write several labels in one cell, separated by ;"
            )
        lines[path] = row.line
    return rows


def _text(file: Path) -> str:
    """The content of a table."""
    if is_folder(file):
        raise UserError(f"--data: {file} is a folder, not a table; name the table in it, or leave out csv:")
    if not is_file(file):
        siblings = [p.name for p in file.parent.glob("*.csv")] if is_folder(file.parent) else []
        raise UserError(f"--data: there is no table {_short(file)}{near_names(file.name, siblings)}")
    try:
        data = file.read_bytes()
        return data.decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{file} cannot be read: {reason_of(error)}") from error
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{file} line {line} is not UTF-8; save the table with that encoding") from error


def _check_columns(file: Path, columns: list[str], first_row: dict[Any, Any]) -> None:
    for name in ("path", "label"):
        if name not in columns:
            content = f"line 1 has {_short(', '.join(columns))}" if columns else "it is empty"
            hint = _hint(file, columns, first_row) or f"{near_names(name, columns)}; write the header path,label,split"
            raise UserError(f"{file}: no column {name!r} ({content}){hint}")
    duplicates = [name for name in ("path", "label", "split") if columns.count(name) > 1]
    if duplicates:
        raise UserError(f"{file} line 1: two columns are called {duplicates[0]!r}")


def _hint(file: Path, columns: list[str], first_row: dict[Any, Any]) -> str:
    """What is probably wrong with a header; empty if that cannot be told."""
    separator = next((one for one in ";\t|" if len(columns) == 1 and one in columns[0]), None)
    if separator is not None:
        return f"; its columns are separated by {separator!r}: save the table with commas"
    if _first_image(file, columns) is not None:
        return "; that is the first image, not a header: write a line path,label above it"
    column = _first_image(file, [first_row.get(name) for name in columns])
    if column is not None and "path" not in columns:
        others = [name for number, name in enumerate(columns) if number != column]
        label = f", and that of the labels (of {_short(', '.join(others))}) label" if "label" not in columns else ""
        return f"; {columns[column]!r} names the images: call that column path{label}"
    return ""


def _first_image(file: Path, cells: Iterable[Any]) -> int | None:
    """The first cell that names a file beside a table."""
    return next((n for n, cell in enumerate(cells) if cell and is_file(file.parent / str(cell).strip())), None)


def _row(file: Path, line: int, cells: dict[Any, Any], columns: list[str]) -> _Row:
    if None in cells:
        raise UserError(f"{file} line {line}: more cells than the header has columns; put commas inside quotes")
    path, label = (str(cells[name] or "").strip() for name in ("path", "label"))
    if any(ord(character) < 32 for character in path + label):
        raise UserError(
            f"{file} line {line}: control characters in {_short(path)!r} or its label; is it text in UTF-8?"
        )
    if not path:
        raise UserError(f"{file} line {line}: the path is empty")
    labels = [name.strip() for name in label.replace(SEPARATORS[1], SEPARATORS[0]).split(SEPARATORS[0])]
    if "" in labels:
        raise UserError(f"{file} line {line}: a label of {_short(path)} is empty; write one, or remove the row")
    split = WHOLE
    if "split" in columns:
        split = str(cells["split"] or "").strip()
        if split not in SPLITS:
            raise UserError(
                f"{file} line {line}: no split {split!r}{near_names(split, SPLITS)}; use {', '.join(SPLITS)}"
            )
    return _Row(line, path, labels, split)


def _short(text: object) -> str:
    """The beginning of a text, for a message."""
    return str(text) if len(str(text)) <= MAX_SHOWN else str(text)[:MAX_SHOWN] + "..."
