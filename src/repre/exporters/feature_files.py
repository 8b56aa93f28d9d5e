"""Stores features in parts while they are computed, and joins the parts to one .npz or .parquet file."""

import json
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from repre.errors import UserError
from repre.utils.io import write_atomically, write_json
from repre.utils.optional_imports import require
from repre.utils.os_errors import reason_of


@dataclass(frozen=True)
class FeatureParts:
    """A folder of parts: arrays of features, the names of their images, and the images that could not be read."""

    folder: Path
    count: int
    """Number of parts, once all are written."""

    def open(self, key: str) -> None:
        """Keeps the parts of an interrupted call with the same key; removes those of any other.

        Raises:
            UserError: the folder cannot be written.
        """
        try:
            if not self.belong_to(key):
                shutil.rmtree(self.folder, ignore_errors=True)
                self.folder.mkdir(parents=True)
                (self.folder / "key.txt").write_text(key)
        except OSError as error:
            raise UserError(f"--out: {self.folder.parent} cannot be written ({reason_of(error)})") from error

    def belong_to(self, key: str) -> bool:
        """Whether the folder holds the parts of a call with this key."""
        file = self.folder / "key.txt"
        return file.is_file() and file.read_text() == key

    def is_finished(self, number: int) -> bool:
        return self._path(number, "json").is_file()

    def write(self, number: int, arrays: dict[str, np.ndarray], texts: Mapping[str, Sequence[str]]) -> None:
        """Writes one part; the JSON file comes last and marks it as finished."""
        for name, values in arrays.items():
            write_atomically(self._path(number, f"{name}.npy"), partial(_save, values))
        write_json(self._path(number, "json"), texts)

    def texts(self, key: str) -> Iterator[list[str]]:
        """Yields the `names`, the `failures` or the files of `several_frames` part by part."""
        for number in range(self.count):
            yield json.loads(self._path(number, "json").read_text(encoding="utf-8")).get(key, [])

    def array_names(self) -> list[str]:
        return sorted({path.name.split(".")[1] for path in self.folder.glob("*.npy")})

    def arrays(self, name: str) -> Iterator[np.ndarray]:
        """Yields an array part by part, from disk; a part without a readable image has none."""
        for number in range(self.count):
            if (path := self._path(number, f"{name}.npy")).is_file():
                yield np.load(path, mmap_mode="r")

    def _path(self, number: int, suffix: str) -> Path:
        return self.folder / f"{number:06d}.{suffix}"


def _save(values: np.ndarray, file: BinaryIO) -> None:
    np.save(file, values)


def check_format(out: Path) -> None:
    """Checks that features can be written to this file.

    Raises:
        UserError: its suffix is unknown, or pyarrow is missing.
    """
    if out.suffix not in (".npz", ".parquet"):
        raise UserError(f"--out {out}: the name has to end with .npz or .parquet")
    if out.suffix == ".parquet":
        _import_pyarrow()


def join_parts(parts: FeatureParts, out: Path) -> int:
    """Writes the file and the list of unreadable images beside it, with one part in memory at a time; gives the number of
    images in the file. Equal parts give equal bytes.

    Raises:
        UserError: no image can be read.
    """
    count = sum(map(len, parts.texts("names")))
    unreadable = sum(map(len, parts.texts("failures")))
    listing = out.with_name(f"{out.name}.unreadable.txt")
    if unreadable:
        write_atomically(listing, partial(_write_failures, parts))
    else:
        listing.unlink(missing_ok=True)
    if not count:
        first = next((f"; the first: {lines[0]}" for lines in parts.texts("failures") if lines), "")
        raise UserError(f"none of {unreadable} images can be read{first}")
    if out.suffix == ".npz":
        _write_npz(parts, count, out)
    else:
        _write_parquet(parts, out)
    return count


def _write_failures(parts: FeatureParts, file: BinaryIO) -> None:
    for lines in parts.texts("failures"):
        file.write("".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"))


def _paths(parts: FeatureParts) -> Iterator[list[str]]:
    """The names of all images part by part; parts without a readable image are left out."""
    yield from filter(None, parts.texts("names"))


def _write_npz(parts: FeatureParts, count: int, out: Path) -> None:
    longest = max(max(map(len, paths)) for paths in _paths(parts))
    text = np.dtype(f"<U{max(1, longest)}")

    def write(target: BinaryIO) -> None:
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            for name in parts.array_names():
                first = next(parts.arrays(name))
                _write_array(archive, name, (count, *first.shape[1:]), first.dtype, parts.arrays(name))
            _write_array(archive, "paths", (count,), text, (np.array(paths, text) for paths in _paths(parts)))

    write_atomically(out, write)


def _write_array(
    archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], parts: Iterator[np.ndarray]
) -> None:
    """Writes an array to an archive as `np.savez` does, part by part."""
    with archive.open(
        zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True
    ) as file:  # without the time, as all have one
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for values in parts:
            file.write(np.ascontiguousarray(values).data.cast("B"))


def _write_parquet(parts: FeatureParts, out: Path) -> None:
    pyarrow, parquet = _import_pyarrow()
    names = parts.array_names()
    first = {name: next(parts.arrays(name)) for name in names}
    types = {name: pyarrow.list_(pyarrow.from_numpy_dtype(array.dtype)) for name, array in first.items()}
    shapes = {name: array.shape[1:] for name, array in first.items()}
    schema = pyarrow.schema([("path", pyarrow.string()), *types.items()], metadata={"shapes": json.dumps(shapes)})

    def write(target: BinaryIO) -> None:
        with parquet.ParquetWriter(target, schema) as writer:
            for paths, *arrays in zip(_paths(parts), *(parts.arrays(name) for name in names)):
                text = [path.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for path in paths]
                columns = [pyarrow.array(text)]  # Arrow wants UTF-8
                for name, values in zip(names, arrays):
                    flat = np.ascontiguousarray(values).reshape(-1)
                    offsets = np.arange(len(paths) + 1, dtype=np.int32) * (flat.size // len(paths))
                    lists = pyarrow.ListArray.from_arrays(pyarrow.array(offsets), pyarrow.array(flat))
                    columns.append(lists.cast(types[name]))
                writer.write_table(pyarrow.table(columns, schema=schema))

    write_atomically(out, write)


def _import_pyarrow() -> tuple[Any, ...]:
    purpose = "a .parquet file (a .npz file needs nothing)"
    return tuple(require(module, extra="parquet", purpose=purpose) for module in ("pyarrow", "pyarrow.parquet"))
