"""Image files on a disk: a folder, or a text list of files."""

import codecs
import os
import stat
from pathlib import Path
from typing import BinaryIO

import numpy as np

from repre.data.io.decode import EXTENSIONS
from repre.data.io.image_files import Stamp
from repre.data.io.image_limits import UnreadableImage
from repre.data.io.names import Names
from repre.errors import UserError

LIST_CHECKS = 100_000
"""Files of a list whose existence is checked before a run; of longer lists, as many evenly spaced ones."""
CONTROL = bytes([*range(8), *range(14, 27), *range(28, 32)])
"""Control characters other than white space, backspace and escape."""
MAX_NAME = 120
"""Characters of a name in a message."""


class LocalFiles:
    """Files below a folder.

    Args:
        root: folder that `names` are relative to.
        names: path of every file.
        left: see `Files`.
    """

    def __init__(self, root: Path, names: Names, left: dict[str, int] | None = None) -> None:
        self.root, self.names, self.counts, self.left = root, names, [len(names)], left or {}
        self.location = str(root.resolve())

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        """Path of file `index`."""
        return self.root / self.names[index]

    def open(self, index: int) -> BinaryIO:
        return open_regular(self.path(index))

    def stamp(self, index: int) -> Stamp:
        try:
            status = os.stat(self.path(index))
        except OSError as error:
            raise UnreadableImage(os_error_reason(error)) from error
        return status.st_size, status.st_mtime_ns

    def describe(self, index: int) -> str:
        return str(self.path(index))


def open_regular(path: Path) -> BinaryIO:
    """Opens a file; UnreadableImage if it is missing or no regular file, because reading a pipe would wait forever."""
    try:
        file = open(path, "rb", opener=_open_without_waiting)  # noqa: SIM115 - the caller closes it
    except OSError as error:
        raise UnreadableImage(os_error_reason(error)) from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise UnreadableImage("not a regular file")
    return file


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def os_error_reason(error: OSError) -> str:
    """Why a file cannot be opened, in words."""
    if isinstance(error, FileNotFoundError):
        return "the file has vanished"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, IsADirectoryError):
        return "not a regular file"
    return f"cannot be read: {error.strerror or error}"


def read_list(path: Path) -> Names:
    """Paths of a text list, one per line, relative to the list's folder; skips blank lines and # comments.

    Raises:
        UserError: it is no text, names nothing, or names files that do not exist.
    """
    if path.suffix.lower() in EXTENSIONS:
        raise UserError(f"--data {path} is one image; name a folder, or a text file with one path per line")
    try:
        with open(path, "rb") as file:
            if not_text(file.read(4096)):
                raise UserError(
                    f"--data {path} is neither a text list nor an archive that is read (.tar, .zip, .parquet); name a "
                    "folder, an archive, or a text file with one path per line"
                )
            file.seek(0)
            names = list_lines(file)
    except OSError as error:
        raise UserError(f"--data: cannot read the list {path}: {error.strerror}") from error
    if not len(names):
        raise UserError(f"--data: the list {path} names no files; write one path per line")
    return names


def check_listed(path: Path, names: Names) -> None:
    """Refuses a list whose files do not exist; of a long list, see `LIST_CHECKS`."""
    numbers = np.unique(np.linspace(0, len(names) - 1, min(LIST_CHECKS, len(names))).astype(np.int64)).tolist()
    missing = [names[number] for number in numbers if not is_file(path.parent / names[number])]
    if missing:
        examples = ", ".join(map(_short, missing[:3])) + (", ..." if len(missing) > 3 else "")
        if is_folder(path.parent / missing[0]):
            raise UserError(
                f"--data: {len(missing)} of {len(numbers)} lines of the list {path} name no files but folders: {examples}; "
                "list their images, or give the folders themselves to --data"
            )
        raise UserError(f"--data: {len(missing)} of {len(numbers)} files of the list {path} do not exist: {examples}")


def not_text(head: bytes) -> bool:
    """Whether the first bytes of a file hold control characters that no text has."""
    return len(head.translate(None, CONTROL)) < len(head)


def _short(name: str) -> str:
    """A name for messages, on one line."""
    name = repr(name)[1:-1]
    return name if len(name) <= MAX_NAME else name[:MAX_NAME] + "..."


def is_file(path: Path) -> bool:
    """Whether a file exists; a name that no file can have does not."""
    return stat.S_ISREG(_mode(path))


def is_folder(path: Path) -> bool:
    """Whether a folder exists."""
    return stat.S_ISDIR(_mode(path))


def why_unusable(path: Path) -> str | None:
    """Why what lies at a path is neither a file nor a folder that can be read; None if nothing lies there."""
    try:
        os.stat(path)
    except PermissionError:
        return f"no permission to read {path}"
    except (OSError, ValueError):
        return f"{path} is a link to a file that does not exist" if path.is_symlink() else None
    return f"{path} is a pipe or a device; write what it gives into a file"


def check_readable(folder: Path) -> None:
    """Refuses a folder that does not exist, or whose files the user may not see."""
    if not is_folder(folder):
        raise UserError(f"--data: there is no folder {folder}")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise UserError(f"--data: no permission to read the folder {folder}")


def _mode(path: Path) -> int:
    try:
        return os.stat(path).st_mode
    except (OSError, ValueError):
        return 0


def list_lines(file: BinaryIO) -> Names:
    """The names in a text list, without blank lines and # comments."""
    lines = (line.removeprefix(codecs.BOM_UTF8).strip() for line in file)  # lines end at \n alone
    return Names.of(line for line in lines if line and not line.startswith(b"#"))
