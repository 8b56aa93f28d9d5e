"""Folders that are complete or not there at all, also when several processes make the same one."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A new folder to fill, which becomes `out` at the end; where another process was faster, what that one made stays."""
    making = out.with_name(f".{out.name}-{os.getpid()}")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    try:
        yield making
        try:
            making.rename(out)
        except OSError:
            if not out.is_dir():
                raise
    finally:
        shutil.rmtree(making, ignore_errors=True)
