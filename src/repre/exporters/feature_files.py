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
        key_file = self.folder / "key.txt"
        try:
            if not key_file.is_file() or key_file.read_text() != key:
                shutil.rmtree(self.folder, ignore_errors=True)
                self.folder.mkdir(parents=True)
                key_file.write_text(key)
        except OSError as error:
            raise UserError(f"--out: {self.folder.parent} cannot be written ({reason_of(error)})") from error

    def is_finished(self, number: int) -> bool:
        return self._path(number, "json").is_file()

    def write(self, number: int, arrays: dict[str, np.ndarray], texts: Mapping[str, Sequence[str]]) -> None:
        """Writes one part; the JSON file comes last and marks it as finished."""
        for name, values in arrays.items():
            write_atomically(self._path(number, f"{name}.npy"), partial(_save, values))
        write_json(self._path(number, "json"), texts)

    def texts(self, key: str) -> list[str]:
        """Gives the `names`, the `failures` or the files of `several_frames` of all parts."""
        contents = (json.loads(self._path(number, "json").read_text(encoding="utf-8")) for number in range(self.count))
        return [text for content in contents for text in content.get(key, [])]

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
    """Writes the file and the list of unreadable images beside it; gives the number of images in the file.

    Raises:
        UserError: no image can be read.
    """
    names, failures = parts.texts("names"), parts.texts("failures")
    listing = out.with_name(f"{out.name}.unreadable.txt")
    if failures:
        content = "".join(f"{line}\n" for line in failures).encode("utf-8", "surrogateescape")
        write_atomically(listing, lambda file: file.write(content))
    else:
        listing.unlink(missing_ok=True)
    if not names:
        first = f"; the first: {failures[0]}" if failures else ""
        raise UserError(f"none of {len(failures)} images can be read{first}")
    (_write_npz if out.suffix == ".npz" else _write_parquet)(parts, names, out)
    return len(names)


def _write_npz(parts: FeatureParts, paths: list[str], out: Path) -> None:
    files: dict[str, Path] = {}
    for name in parts.array_names():
        first = next(parts.arrays(name))
        files[name] = parts.folder / f"joined.{name}"
        joined = np.lib.format.open_memmap(
            files[name], mode="w+", dtype=first.dtype, shape=(len(paths), *first.shape[1:])
        )
        start = 0
        for values in parts.arrays(name):
            joined[start : start + len(values)] = values
            start += len(values)
        joined.flush()
    files["paths"] = parts.folder / "joined.paths"
    with open(files["paths"], "wb") as file:
        np.save(file, np.array(paths))

    def write(target: BinaryIO) -> None:
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            for name, path in files.items():
                archive.write(path, f"{name}.npy")

    write_atomically(out, write)


def _write_parquet(parts: FeatureParts, paths: list[str], out: Path) -> None:
    pyarrow, parquet = _import_pyarrow()
    names = parts.array_names()
    first = {name: next(parts.arrays(name)) for name in names}
    paths = [path.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for path in paths]  # Arrow wants UTF-8
    types = {name: pyarrow.list_(pyarrow.from_numpy_dtype(array.dtype)) for name, array in first.items()}
    shapes = {name: array.shape[1:] for name, array in first.items()}
    schema = pyarrow.schema([("path", pyarrow.string()), *types.items()], metadata={"shapes": json.dumps(shapes)})

    def write(target: BinaryIO) -> None:
        start = 0
        with parquet.ParquetWriter(target, schema) as writer:
            for arrays in zip(*(parts.arrays(name) for name in names)):
                count = len(arrays[0])
                columns = [pyarrow.array(paths[start : start + count])]
                for name, values in zip(names, arrays):
                    flat = np.ascontiguousarray(values).reshape(-1)
                    offsets = np.arange(count + 1, dtype=np.int32) * (flat.size // count)
                    lists = pyarrow.ListArray.from_arrays(pyarrow.array(offsets), pyarrow.array(flat))
                    columns.append(lists.cast(types[name]))
                writer.write_table(pyarrow.table(columns, schema=schema))
                start += count

    write_atomically(out, write)


def _import_pyarrow() -> tuple[Any, ...]:
    purpose = "a .parquet file (a .npz file needs nothing)"
    return tuple(require(module, extra="parquet", purpose=purpose) for module in ("pyarrow", "pyarrow.parquet"))
