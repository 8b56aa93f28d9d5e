"""Folders that are either complete or absent, even if several processes create the same one."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def complete_folder(out: Path) -> Iterator[Path]:
    """Yields a temporary folder to fill and renames it to `out` on success.

    If another process created `out` in the meantime, that folder stays and the temporary one is deleted.
    """
    temporary = out.with_name(f".{out.name}-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        try:
            temporary.rename(out)
        except OSError:
            if not out.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
