"""Folders of small images, and the same images in archives."""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image


def class_folder(folder: Path, count: int = 12, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    """Images of several sizes and formats in class folders."""
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / classes[number % len(classes)] / f"{number:03}.{('png', 'jpg', 'webp')[number % 3]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = (20 + number, 30 - number)
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(path)
    return folder


def files_of(folder: Path) -> list[Path]:
    """All files below a folder, in the order of their paths."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def pack_tar(folder: Path, archive: Path, files: list[Path] | None = None) -> Path:
    """Writes files of a folder into a tar archive."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w") as tar:
        for path in files_of(folder) if files is None else files:
            tar.add(path, arcname=path.relative_to(folder).as_posix())
    return archive


def pack_shards(folder: Path, shards: Path, count: int = 3) -> str:
    """Writes the files of a folder into numbered shards; the pattern that names them."""
    files = files_of(folder)
    for number in range(count):
        share = files[number * len(files) // count : (number + 1) * len(files) // count]
        pack_tar(folder, shards / f"{number:04}.tar", share)
    return f"{shards}/{{0000..{count - 1:04}}}.tar"


def pack_zip(folder: Path, archive: Path, *, packing: int = zipfile.ZIP_DEFLATED) -> Path:
    """Writes the files of a folder into a zip archive, last ones first."""
    with zipfile.ZipFile(archive, "w", packing) as zipped:
        for path in reversed(files_of(folder)):
            zipped.write(path, path.relative_to(folder).as_posix())
    return archive


def add_member(tar: tarfile.TarFile, name: str, content: bytes = b"x") -> None:
    """Adds a member of that content."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
