"""Chooses whether and where the decoded images of a source are kept, within a budget of disk space.

Each folder of `decoded` in the cache belongs to one list of images and one way of decoding; its modification time says when
it was last opened. A shared lock on its file `lock` tells that a process uses it. Any of them may be deleted at any time.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import distributions, version
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from PIL import Image, features

from repre.data import scenes
from repre.data.io import decode, dicom, image_kinds, tiff
from repre.data.io.decode import UnreadableImage
from repre.data.io.decoded_cache import DecodedCache
from repre.data.io.image_files import FileSource
from repre.data.io.image_kinds import FORMATS
from repre.data.io.sources import Source
from repre.data.scenes import Scenes
from repre.utils.evenly_spaced import evenly_spaced
from repre.utils.folder_lock import lock_within
from repre.utils.io import cache_home, json_hash
from repre.utils.os_errors import reason_of

try:
    import fcntl
except ImportError:  # Windows, which lacks pread too
    fcntl = None  # type: ignore[assignment]

SAMPLE = 64
"""Images whose headers are read for an estimate of the size."""
RESERVE_SHARE, RESERVE_BYTES = 0.05, 2**30
"""Of the disk, at least this share and this size stay free."""
LOCK_SECONDS = 10.0
"""Longest wait for a process that makes room; without the lock nothing is kept."""


class CachedSource:
    """A source whose images are read from the cache, where they are put when they are first loaded."""

    def __init__(self, source: Source, cache: DecodedCache, lock: IO[bytes] | None = None) -> None:
        self.source, self.cache, self._lock = source, cache, lock
        self.spec, self.channels, self.classes = source.spec, source.channels, source.classes

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_lock": None}

    @property
    def labels(self) -> np.ndarray | None:
        return self.source.labels

    def __len__(self) -> int:
        return len(self.source)

    def load(self, index: int) -> np.ndarray:
        stamp = (0, 0)
        if isinstance(self.source, FileSource):
            stamp = self.source.stamp(index)
        return self.cache.load(index, stamp, lambda: self.source.load(index))

    def describe(self, index: int) -> str:
        return self.source.describe(index)


def with_cache(
    source: Source, *, mode: Literal["auto", "off", "on"], gib: float, epochs: int, log: Callable[[str], object]
) -> Source:
    """The source, read through the cache if `mode` says so; prints in one line what was decided.

    Args:
        mode: `auto` keeps images if there are several epochs and all images fit the budget and the disk.
        gib: what all decoded images may take on the disk. Those of the source that was not opened for longest are deleted.
        epochs: of the run.
        log: prints a message.
    """
    identity = _identity(source)
    if mode == "off" or (mode == "auto" and epochs < 2) or identity is None or fcntl is None:
        if mode == "on" and identity is None:
            log(f"loader.cache: the images of {source.spec} are already in memory; nothing is cached on the disk")
        return source
    folder = cache_home() / "decoded" / json_hash(identity, length=32)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = open(folder / "lock", "ab")  # noqa: SIM115 - open as long as the source, because closing it releases the lock
        lock_within(lock, fcntl.LOCK_SH, seconds=LOCK_SECONDS)
        os.utime(folder)
        expected, budget = estimate(source), int(gib * 2**30)
        others = _make_room(folder, budget - expected)
        disk = shutil.disk_usage(folder)
        reserve = int(max(RESERVE_BYTES, RESERVE_SHARE * disk.total))
        side = source.canvas if isinstance(source, FileSource) else max(source.load(0).shape[:2])
        assert side is not None, "it is part of the identity"
        cache = DecodedCache(
            folder, record_bytes=side**2 * source.channels * 4, most_bytes=budget - others, reserve=reserve
        )
        missing = max(0, expected - cache.size)
        problem = ""
        if expected + others > budget:
            problem = f"more than --loader.cache-gib {gib:g} allows"
        elif missing > disk.free - reserve:
            problem = f"too much for the {disk.free / 2**30:.1f} GiB that are free at {folder.parent}"
        if problem and mode == "auto":
            log(f"decoded images are not cached: about {expected / 2**30:.1f} GiB, {problem}")
            return source
    except OSError as error:
        log(f"decoded images are not cached: {reason_of(error)} ({error.filename or folder})")
        return source
    if problem:
        log(
            f"some decoded images are cached in {folder}: all take about {expected / 2**30:.1f} GiB, {problem}; you "
            "may delete it at any time"
        )
        return CachedSource(source, cache, lock)
    there = f"{cache.size / 2**30:.2f} of about {expected / 2**30:.2f} GiB so far"
    log(f"decoded images are cached in {folder} ({there}); you may delete it at any time")
    return CachedSource(source, cache, lock)


def estimate(source: Source) -> int:
    """About how many bytes the decoded images of a source take."""
    if not isinstance(source, FileSource):
        return len(source) * source.load(0).nbytes
    blocks = [height * width * source.channels * itemsize + 4096 for height, width, itemsize in decoded_sizes(source)]
    return int(np.mean(blocks) * len(source))


def decoded_sizes(source: Source) -> list[tuple[float, float, int]]:
    """Height, width and bytes of a value of some decoded images, by the headers of their files; those of a full canvas where
    a file cannot be read, and of the first image, if there is one, where there are no files."""
    if isinstance(source, CachedSource):
        source = source.source
    if not isinstance(source, FileSource):
        with contextlib.suppress(UnreadableImage):
            first = source.load(0)
            return [(*first.shape[:2], first.itemsize)]
        return [(0, 0, 1)]
    return [_decoded_size(source, number) for number in evenly_spaced(len(source), SAMPLE)]


def _decoded_size(source: FileSource, number: int) -> tuple[float, float, int]:
    canvas = source.canvas
    try:
        with source.files.open(number) as content, Image.open(content, formats=FORMATS) as file:
            width, height, deep = *file.size, file.mode.startswith(("I", "F"))
    except Exception:  # damaged files raise anything
        width, height, deep = canvas or 0, canvas or 0, False
    scale = min(1.0, canvas / max(height, width, 1)) if canvas else 1.0
    return height * scale, width * scale, 2 if deep else 1


def _identity(source: Source) -> dict[str, Any] | None:
    """Everything but the content of files that the pixels of a source depend on; None if they are in memory already."""
    if isinstance(source, Scenes):
        return {"scenes": asdict(source.config), "split": source.split, "count": len(source), "code": _code(scenes)}
    if not isinstance(source, FileSource) or source.canvas is None:
        return None
    return {
        "root": os.fsencode(source.files.location).hex(),
        "names": source.files.names.digest,
        "counts": source.files.counts,
        "canvas": source.canvas,
        "channels": source.channels,
        "raw_values": source.raw_values,
        "decoders": [version(name) for name in ("pillow", "torch", "numpy", "tifffile")]
        + [part.version for part in distributions(name="pydicom")],
        "libraries": [
            features.version(name) for name in ("libjpeg_turbo", "jpg", "zlib", "webp", "libtiff", "avif", "jpg_2000")
        ],
        "code": _code(decode, dicom, image_kinds, tiff),
    }


def _code(*modules: Any) -> str:
    """A hash of the source of modules: what another version of them made is not used."""
    return hashlib.sha256(b"".join(Path(module.__file__).read_bytes() for module in modules)).hexdigest()


def _make_room(keep: Path, allowed: int) -> int:
    """Deletes folders beside `keep`, those opened longest ago first, until the others take at most `allowed` bytes.

    Folders in use stay. Nothing is deleted if that could not be enough.

    Returns:
        The bytes that the others take.
    """
    sizes = {folder: _size(folder) for folder in keep.parent.iterdir() if folder != keep and folder.is_dir()}
    if allowed < 0:
        return sum(sizes.values())
    with contextlib.suppress(FileNotFoundError):
        for folder in sorted(sizes, key=lambda folder: folder.stat().st_mtime):
            if sum(sizes.values()) > allowed and not _in_use(folder):
                shutil.rmtree(folder, ignore_errors=True)
                sizes[folder] = 0
    return sum(sizes.values())


def _in_use(folder: Path) -> bool:
    try:
        with open(folder / "lock", "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


def _size(folder: Path) -> int:
    """Bytes that the files of a folder take on the disk."""
    total = 0
    with contextlib.suppress(FileNotFoundError):
        total = sum(file.stat().st_blocks * 512 for file in folder.iterdir())
    return total
