"""Image files on a disk: a folder, or a text list of files."""

import codecs
import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from repre.data.io.decode import EXTENSIONS
from repre.data.io.image_files import Stamp
from repre.data.io.image_limits import UnreadableImage
from repre.data.io.names import Names
from repre.data.io.storage_faults import check_away, unreadable_or_fault
from repre.errors import UserError
from repre.utils.evenly_spaced import evenly_spaced
from repre.utils.os_errors import closed_folder, reason_of
from repre.utils.printable_text import printable

LIST_CHECKS = 100_000
"""Files of a list whose existence is checked before a run; of longer lists, as many evenly spaced ones."""
CONTROL = bytes([*range(8), *range(14, 27), *range(28, 32)])
"""Control characters other than white space, backspace and escape."""
SAMPLE = 8
"""Other files that are looked for where one is missing."""
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
        try:
            return open_regular(self.path(index))
        except UnreadableImage:
            self._check_away(index)
            raise

    def _check_away(self, index: int) -> None:
        """Raises OSError if a file and a few others are missing."""
        others = [number for number in evenly_spaced(len(self), SAMPLE) if number != index]
        if others:
            check_away(self.path(index), map(self.path, others))

    def stamp(self, index: int) -> Stamp:
        try:
            status = os.stat(self.path(index))
        except OSError as error:
            self._check_away(index)
            raise unreadable_or_fault(error) from error
        # a copy that keeps the old time of modification (cp -p, rsync -a) has a new time of its status
        return status.st_size, max(status.st_mtime_ns, status.st_ctime_ns)

    def describe(self, index: int) -> str:
        return str(self.path(index))


def open_regular(path: Path) -> BinaryIO:
    """Opens a file.

    Raises:
        UnreadableImage: it is missing or no regular file, because reading a pipe would wait forever.
        OSError: the storage is at fault; see `storage_faults`.
    """
    try:
        file = open(path, "rb", opener=_open_without_waiting)  # noqa: SIM115 - the caller closes it
    except OSError as error:
        raise unreadable_or_fault(error) from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise UnreadableImage("not a regular file")
    return file


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


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
                    f"--data {path} is neither a text list nor a supported archive (.tar, .zip, .parquet); name a "
                    "folder, an archive, or a text file with one path per line"
                )
            file.seek(0)
            names = list_lines(file)
    except OSError as error:
        raise UserError(f"--data: cannot read the list {path}: {reason_of(error)}") from error
    if not len(names):
        raise UserError(f"--data: the list {path} names no files; write one path per line")
    return names


def check_listed(path: Path, names: Names) -> None:
    """Refuses a list whose files do not exist; of a long list, see `LIST_CHECKS`."""
    numbers = evenly_spaced(len(names), LIST_CHECKS)
    missing = [names[number] for number in numbers if not is_file(path.parent / names[number])]
    if missing:
        if (other := _other_text(path)) is not None:
            raise UserError(f"--data {printable(path)} {other}")
        examples = ", ".join(map(_short, missing[:3])) + (", ..." if len(missing) > 3 else "")
        if (folder := closed_folder(path.parent / missing[0])) is not None:
            raise UserError(
                f"--data: {len(missing)} of {len(numbers)} files of the list {path} cannot be read: {examples}; "
                f"you may not enter the folder {printable(folder)}"
            )
        if is_folder(path.parent / missing[0]):
            raise UserError(
                f"--data: {len(missing)} of {len(numbers)} lines of the list {path} name folders, not files: "
                f"{examples}; list their images, or give the folders themselves to --data"
            )
        raise UserError(f"--data: {len(missing)} of {len(numbers)} files of the list {path} do not exist: {examples}")


def _other_text(path: Path) -> str | None:
    """What a text is whose lines name no files, with what to give instead; None if it may be a list after all."""
    with open(path, "rb") as file:
        head = file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()
    first = head.split(b"\n", 1)[0].decode("utf-8", "replace").strip()
    ending = path.suffix.lower()
    if head.startswith(b"%PDF"):
        return "is a PDF document, not a list of images"
    if head[:1] in (b"{", b"[") or ending in (".json", ".jsonl"):
        return (
            "is JSON, not a list of images; name the folder of the images (labels of COCO are for repre eval: "
            "coco:FOLDER)"
        )
    if ending in (".yaml", ".yml"):
        return "is YAML, not a list of images; name the folder of the images, or a text file with one path per line"
    if head[:1] == b"<":
        return "is a web page or XML, not a list of images; name the folder or a text file with one path per line"
    if ending in (".csv", ".tsv") or {"path", "label"} <= set(first.split(",")):
        return (
            f"is a table ({_short(first)}), not a list of images; name the folder of the images, or write one path "
            f"per line without other columns (labels are for repre eval: csv:FILE)"
        )
    return None


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
        folder = closed_folder(path)
        inside = "" if folder is None else f": you may not enter the folder {printable(folder)}"
        return f"no permission to read {printable(path)}{inside}"
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            return f"{_short(str(path))} is too long for a file name"
        if isinstance(error, OSError) and error.errno == errno.ELOOP:
            return f"{printable(path)} is a link to itself"
        return f"{printable(path)} is a link to a file that does not exist" if _is_link(path) else None
    return f"{printable(path)} is a pipe or a device; save its content as a file"


def _is_link(path: Path) -> bool:
    try:
        return path.is_symlink()
    except (OSError, ValueError):
        return False


def check_readable(folder: Path) -> None:
    """Refuses a folder that does not exist, or whose files the user may not see."""
    if not is_folder(folder):
        raise UserError(f"--data: {why_unusable(folder) or f'there is no folder {printable(folder)}'}")
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
