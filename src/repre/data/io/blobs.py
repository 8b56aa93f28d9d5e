"""Large files of which parts are read: archives on a disk, or elsewhere (`remote_files`)."""

import os
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from repre.data.io.image_files import Stamp
from repre.data.io.local_files import open_regular
from repre.data.io.storage_faults import unreadable_or_fault


class Blob(Protocol):
    """One large file."""

    location: str
    """Its path or address."""

    def stamp(self) -> Stamp:
        """What changes with its content; raises UnreadableImage if it is gone."""

    def open(self) -> BinaryIO:
        """Opens it for reading, with `seek`; raises UnreadableImage."""

    def read(self, start: int, size: int) -> bytes:
        """`size` bytes from `start` on, fewer at its end; raises UnreadableImage. The file then stays open."""

    def close(self) -> None:
        """Closes what `read` opened."""


class LocalBlob:
    """A file on a disk."""

    def __init__(self, path: Path) -> None:
        self.path, self.location = path, str(path)
        self._file: BinaryIO | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None}

    def stamp(self) -> Stamp:
        try:
            status = os.stat(self.path)
        except OSError as error:
            raise unreadable_or_fault(error) from error
        return status.st_size, status.st_mtime_ns

    def open(self) -> BinaryIO:
        return open_regular(self.path)

    def read(self, start: int, size: int) -> bytes:
        if self._file is None:
            self._file = open_regular(self.path)  # forked workers share it, which `pread` allows
        try:
            return os.pread(self._file.fileno(), size, start)
        except OSError as error:
            self.close()  # a handle that the storage has lost stays useless
            raise unreadable_or_fault(error) from error

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
