"""A table (CSV) with the columns path, label and optionally split: one image a row, several labels in one cell."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from repre.data.io.image_files import Decoding, FileSource
from repre.data.io.local_files import LocalFiles
from repre.data.io.names import Names
from repre.data.labels.splits import LabeledImages
from repre.errors import UserError, near_names

SPLITS = ("train", "val", "test")
WHOLE = "whole"
"""Name of the only part of data without splits."""
SEPARATORS = ";|"
"""Characters between several labels in one cell of a table."""


@dataclass(frozen=True)
class _Row:
    line: int
    path: str
    labels: list[str]
    split: str


def read_table(spec: str, file: Path, decoding: Decoding, *, like: LabeledImages | None) -> dict[str, LabeledImages]:
    """Reads the images of a table and their labels; the splits by name, or `WHOLE` without a column of splits.

    Args:
        spec: the whole ``--data`` string.
        file: the table.
        decoding: see `Decoding`.
        like: training images, if the table must have their classes.

    Raises:
        UserError: a cell is wrong; names its line.
    """
    rows = _rows(file)
    multilabel = any(len(row.labels) > 1 for row in rows) or (like is not None and like.multilabel)
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


def _rows(file: Path) -> list[_Row]:
    """Reads the rows of a table and checks every cell."""
    if not file.is_file():
        siblings = [p.name for p in file.parent.glob("*.csv")] if file.parent.is_dir() else []
        raise UserError(f"--data: there is no table {file}{near_names(file.name, siblings)}")
    try:
        with open(file, encoding="utf-8-sig", newline="") as text:
            reader = csv.DictReader(text, skipinitialspace=True)
            columns = [name.strip() for name in reader.fieldnames or []]
            _check_columns(file, columns)
            reader.fieldnames = columns
            rows = [_row(file, reader.line_num, cells, columns) for cells in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file} cannot be read as a table in UTF-8: {error}") from error
    if not rows:
        raise UserError(f"{file} has no rows below its header")
    lines: dict[str, int] = {}
    for row in rows:
        if row.path in lines:
            raise UserError(
                f"{file} line {row.line}: {row.path} was named in line {lines[row.path]} already; name every image once, "
                "and write several labels in one cell, separated by ;"
            )
        lines[row.path] = row.line
    return rows


def _check_columns(file: Path, columns: list[str]) -> None:
    for name in ("path", "label"):
        if name not in columns:
            content = f"line 1 has {', '.join(columns)}" if columns else "it is empty"
            raise UserError(
                f"{file}: no column {name!r} ({content}){near_names(name, columns)}; write the header path,label,split"
            )
    duplicates = [name for name in ("path", "label", "split") if columns.count(name) > 1]
    if duplicates:
        raise UserError(f"{file} line 1: two columns are called {duplicates[0]!r}")


def _row(file: Path, line: int, cells: dict[Any, Any], columns: list[str]) -> _Row:
    if None in cells:
        raise UserError(f"{file} line {line}: more cells than the header has columns; put commas inside quotes")
    path, label = (str(cells[name] or "").strip() for name in ("path", "label"))
    if not path:
        raise UserError(f"{file} line {line}: the path is empty")
    if not (file.parent / path).is_file():
        raise UserError(f"{file} line {line}: there is no image {file.parent / path}")
    labels = [name.strip() for name in label.replace(SEPARATORS[1], SEPARATORS[0]).split(SEPARATORS[0])]
    if "" in labels:
        raise UserError(f"{file} line {line}: a label of {path} is empty; write one, or remove the row")
    split = WHOLE
    if "split" in columns:
        split = str(cells["split"] or "").strip()
        if split not in SPLITS:
            raise UserError(
                f"{file} line {line}: no split {split!r}{near_names(split, SPLITS)}; use {', '.join(SPLITS)}"
            )
    return _Row(line, path, labels, split)
