"""Images in the rows of a data set of Hugging Face, and their classes; `hub_data` says how one is named and loaded."""

import io
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from repre.data.io.hub_data import SPLITS, HubSpec, choose_split, load_hub, parse_hub_spec
from repre.data.io.image_files import MAX_CLASSES, Opened, Stamp
from repre.data.io.image_limits import UnreadableImage
from repre.data.io.local_files import open_regular
from repre.data.io.names import Names
from repre.errors import UserError, near_names

Array = np.ndarray

LABEL_COLUMNS = ("label", "labels")
"""Columns that hold the classes whatever their type is; before others of the type ClassLabel."""


class HubFiles:
    """Encoded images in one column of a table of Arrow, which stays on the disk. Their names are the numbers of the rows.

    Args:
        rows: a `datasets.Dataset` that has only that column.
        where: the data set and its split, for messages.
        modified: see `HubData`.
    """

    def __init__(self, rows: Any, *, where: str, modified: int) -> None:
        self.rows, self.where, self.modified = rows.with_format("arrow"), where, modified
        self.names, self.counts = Names.numbered(len(rows)), [len(rows)]
        self.left: dict[str, int] = {}
        tables = rows.cache_files  # of Arrow; those of another split, revision or Parquet file have other paths
        self.location = tables[0]["filename"] if tables else where

    def __len__(self) -> int:
        return len(self.names)

    def open(self, index: int) -> BinaryIO:
        cell = self._cell(index).as_py()
        content, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
        if content is not None:
            return io.BytesIO(content)
        if not path:
            raise UnreadableImage("the row has no image")
        if "://" in path:
            raise UnreadableImage(f"the row has only the address of its image, {path.partition('?')[0]}")
        return open_regular(Path(path))

    def stamp(self, index: int) -> Stamp:
        cell = self._cell(index)
        content = cell["bytes"] if hasattr(cell, "keys") and cell.is_valid else cell
        if content.is_valid and hasattr(content, "as_buffer"):
            return content.as_buffer().size, self.modified
        with self.open(index) as file:
            status = os.fstat(file.fileno())
        return status.st_size, status.st_mtime_ns

    def _cell(self, index: int) -> Any:
        """The scalar of Arrow in row `index`: binary, or a struct of bytes and path."""
        return self.rows[index].column(0)[0]

    def describe(self, index: int) -> str:
        return f"{self.where} row {index}"


def open_hub(spec: str, rest: str, *, split: str) -> Opened:
    """Opens one split of a data set, with its classes if every row has one.

    Args:
        spec: the whole ``--data`` string.
        rest: what `parse_hub_spec` takes.
        split: train or val, if the spec names none.

    Raises:
        UserError: there is no such data set, split or column, or no image.
    """
    named = parse_hub_spec(spec, rest)
    data = load_hub(named)
    name = choose_split(named, data, split=split)
    rows = data.splits[name]
    if not len(rows):
        raise UserError(f"--data {spec}: the data set has no rows{f' in {name}' if name else ''}")
    where = named.name + _revision(rows) + (f"[{name}]" if name else "")
    files = HubFiles(rows.select_columns([_image_column(named, rows)]), where=where, modified=data.modified)
    found = _labels(named, rows)
    if found is None or found[0].min() < 0 or len(found[1]) < 2:
        return Opened(files)
    return Opened(files, *found)


def hub_splits(spec: str) -> dict[str, str]:
    """The splits of a labeled data set: train, val or test, or "" for its only part, and the ``--data`` string of each.

    Splits without labels, as the test images of some data sets, are left out.

    Raises:
        UserError: no column holds the classes, or only some rows have one; or see `open_hub`.
    """
    named = parse_hub_spec(spec, spec.removeprefix("hf:"))
    data = load_hub(named)
    if named.split or len(data.splits) == 1:
        chosen = {"": choose_split(named, data, split=next(iter(data.splits)))}
    else:
        chosen = {ours: name for ours, theirs in SPLITS.items() for name in theirs if name in data.splits}
    if "train" not in chosen and "" not in chosen:
        choose_split(named, data, split="train")  # raises
    exact = {}
    for ours, name in chosen.items():
        found = _labels(named, data.splits[name])
        if found is None:
            raise UserError(
                f"--data {spec}: no column of classes (ClassLabel, or called label); columns are "
                f"{_columns(data.splits[name])}; name one: {replace(named, label='COLUMN').with_split(named.split)}"
            )
        missing = int((found[0] < 0).sum())
        if missing == len(found[0]) and ours != "train" and len(chosen) > 1:
            continue
        if missing:
            raise UserError(f"--data {spec}: {missing} of {len(found[0])} rows of {name or named.name} have no label")
        exact[ours] = named.with_split(name)
    return exact


def _revision(rows: Any) -> str:
    """The commit of a data set of the hub, which is the name of its folder in the library's cache; else nothing."""
    folders = {os.path.basename(os.path.dirname(file["filename"])) for file in rows.cache_files}
    commit = re.fullmatch(r"([0-9a-f]{8})[0-9a-f]{32}", folders.pop() if len(folders) == 1 else "")
    return f"@{commit[1]}" if commit else ""


def _image_column(spec: HubSpec, rows: Any) -> str:
    """The column that holds the images: of the type Image; else bytes with a path; else bytes."""
    from datasets import Image

    kinds: tuple[list[str], ...] = [], [], []
    for name, feature in rows.features.items():
        if isinstance(feature, Image):
            kinds[0].append(name)
        elif isinstance(feature, dict) and _is_binary(feature.get("bytes")):
            kinds[1].append(name)
        elif _is_binary(feature):
            kinds[2].append(name)
    fitting = [name for names in kinds for name in names]
    if spec.image:
        if spec.image not in fitting:
            near = near_names(spec.image, rows.column_names)
            raise UserError(f"--data {spec.text}: no image column {spec.image!r}{near}; columns are {_columns(rows)}")
        return spec.image
    names = next(filter(None, kinds), [])
    if not names:
        raise UserError(f"--data {spec.text} has no image column; columns are {_columns(rows)}")
    if len(names) > 1:
        raise UserError(
            f"--data {spec.text} has several image columns: {', '.join(names)}; name one: "
            f"{replace(spec, image=names[0]).with_split(spec.split)}"
        )
    return names[0]


def _is_binary(feature: Any) -> bool:
    return getattr(feature, "dtype", None) in ("binary", "large_binary")


def _columns(rows: Any) -> str:
    return ", ".join(f"{name} ({_type(feature)})" for name, feature in rows.features.items())


def _type(feature: Any) -> str:
    kind = type(feature).__name__
    return str(feature.dtype) if kind == "Value" else kind


def _labels(spec: HubSpec, rows: Any) -> tuple[Array, list[str]] | None:
    """The class of every row, int64 [N] with -1 where it has none, and the names; None without a column of classes."""
    from datasets import ClassLabel

    features = rows.features
    if spec.label and spec.label not in features:
        near = near_names(spec.label, rows.column_names)
        raise UserError(f"--data {spec.text}: no column {spec.label!r}{near}; columns are {_columns(rows)}")
    marked = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    called = [name for name in LABEL_COLUMNS if name in features]
    candidates = [spec.label] if spec.label else [*called, *(marked if len(marked) == 1 else [])]
    for name in candidates:
        column = _column(rows, name)
        found = _numbered(column, list(features[name].names)) if name in marked else _coded(column)
        if found is not None:
            return found
    if spec.label:
        raise UserError(
            f"--data {spec.text}: column {spec.label!r} ({_type(features[spec.label])}) does not hold one class for each row"
        )
    return None


def _column(rows: Any, name: str) -> Any:
    """A whole column as a chunked array of Arrow, without a copy where the rows are in their order."""
    return rows.select_columns([name]).with_format("arrow")[:].column(0)


def _numbered(column: Any, classes: list[str]) -> tuple[Array, list[str]] | None:
    """Classes of a column of the type ClassLabel; None if a number is none of its classes."""
    labels = np.array(column.fill_null(-1).to_numpy(), np.int64)
    return (labels, classes) if labels.max(initial=-1) < len(classes) else None


def _coded(column: Any) -> tuple[Array, list[str]] | None:
    """Classes by the different numbers or texts of a column, in their order; None for other values, or too many."""
    import pyarrow as pa
    from pyarrow import compute

    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return None
    known = compute.unique(column).drop_null()
    if len(known) > MAX_CLASSES:
        return None
    known = known.take(compute.sort_indices(known))
    labels = compute.index_in(column, value_set=known).fill_null(-1)
    return np.array(labels.to_numpy(), np.int64), [str(value) for value in known.to_pylist()]
