"""Rows of a JSON lines file, such as metrics.jsonl: read in spite of a crash, written whole, added."""

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from repre.utils.io import write_atomically


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The complete rows of a JSON lines file, one by one; none if there is no file.

    A crash during a write, or a power loss, may leave other lines; they are skipped.
    """
    if not path.is_file():
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                yield row


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Replaces a file by rows, atomically; numbers that are not finite become null."""
    write_atomically(path, lambda file: file.writelines(_to_line(row).encode() for row in rows))


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Adds a row to a file; numbers that are not finite become null."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(_to_line(row))


def _to_line(row: dict[str, Any]) -> str:
    """A row as ASCII JSON; numbers that are not finite become null, and file names that are not UTF-8 are escaped."""
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    return json.dumps(finite, allow_nan=False) + "\n"
