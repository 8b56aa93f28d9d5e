"""Images in files: a folder, or a text list of files."""

import os
from pathlib import Path

import numpy as np

from repre.data.io.decode import EXTENSIONS, read_image
from repre.data.io.folder_index import image_names
from repre.errors import UserError, near_names

Array = np.ndarray


class FileSource:
    """Image files.

    Args:
        spec: the string that the source was opened from.
        root: folder that `names` are relative to.
        names: path of every file.
        channels: of every image.
        canvas: larger images are shrunk to fit this square; None leaves them as they are.
        labels: class of every image, int64 [N]; None without labels.
        classes: names of the classes.
    """

    def __init__(
        self,
        spec: str,
        root: Path,
        names: list[str],
        *,
        channels: int,
        canvas: int | None,
        labels: Array | None = None,
        classes: list[str] | None = None,
    ) -> None:
        self.spec, self.root, self.channels, self.canvas = spec, root, channels, canvas
        encoded = [os.fsencode(name) for name in names]  # one block of memory, which worker processes share
        self._ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        self._names = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self.labels, self.classes = labels, classes or []
        self.run_started: int | None = None
        """When the run that shows these files began, in nanoseconds; see repre.data.loading.manifest."""

    def __len__(self) -> int:
        return len(self._ends)

    def names(self) -> list[str]:
        """Paths of all files relative to the root, in order."""
        joined, starts = self._names.tobytes(), [0, *self._ends[:-1].tolist()]
        return [os.fsdecode(joined[start:end]) for start, end in zip(starts, self._ends.tolist())]

    def path(self, index: int) -> Path:
        """Path of image `index`."""
        start = 0 if index == 0 else int(self._ends[index - 1])
        return self.root / os.fsdecode(self._names[start : int(self._ends[index])].tobytes())

    def load(self, index: int) -> Array:
        return read_image(self.path(index), channels=self.channels, canvas=self.canvas)

    def describe(self, index: int) -> str:
        return str(self.path(index))


def open_folder(
    spec: str, path: Path, *, split: str, channels: int, canvas: int | None, cache_dir: Path | None
) -> FileSource:
    """Opens a folder, or a text file that lists images.

    If every image lies in a subfolder and there are several, the subfolders are classes. A folder that holds train/ and
    val/ stands for the one that `split` names.

    Raises:
        UserError: there is no such folder or list, or it names no images.
    """
    if path.is_file():
        return FileSource(spec, path.parent, _read_list(path), channels=channels, canvas=canvas)
    if not path.is_dir():
        siblings = [p.name for p in path.parent.iterdir() if p.is_dir()] if path.parent.is_dir() else []
        raise UserError(f"--data: there is no folder or list {path}{near_names(path.name, siblings)}")
    if (path / "train").is_dir() and (path / "val").is_dir():
        path = path / split
    names = image_names(path, cache_dir=cache_dir)
    subfolders = [name.split("/", 1)[0] if "/" in name else "" for name in names]
    classes = sorted(set(subfolders))
    if "" in classes or len(classes) == 1:
        return FileSource(spec, path, names, channels=channels, canvas=canvas)
    number = {name: number for number, name in enumerate(classes)}
    labels = np.array([number[subfolder] for subfolder in subfolders], np.int64)
    return FileSource(spec, path, names, channels=channels, canvas=canvas, labels=labels, classes=classes)


def _read_list(path: Path) -> list[str]:
    """Paths of a text list, one per line, relative to the list's folder; skips blank lines and # comments."""
    if path.suffix.lower() in EXTENSIONS:
        raise UserError(f"--data {path} is one image; name a folder, or a text file with one path per line")
    try:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise UserError(f"--data: cannot read the list {path}: {error.strerror}") from error
    lines = [line.strip() for line in text.split("\n")]  # not splitlines: names may hold other line separators
    names = [line for line in lines if line and not line.startswith("#")]
    if not names:
        raise UserError(f"--data: the list {path} names no files; write one path per line")
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        examples = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise UserError(f"--data: {len(missing)} of {len(names)} files of the list {path} do not exist: {examples}")
    return names
