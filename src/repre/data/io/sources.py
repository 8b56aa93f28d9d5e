"""What a ``--data`` string means: a folder, a list of files, a data set by name, or the embedded scenes."""

import gzip
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from repre.data.io.decode import EXTENSIONS, UnreadableImage, read_image
from repre.data.scenes import Scenes, ScenesConfig
from repre.errors import UserError, near_names

Array = np.ndarray


class Source(Protocol):
    """Images by index, with labels where there are any. Sources travel to worker processes."""

    spec: str
    """The string that it was opened from."""
    channels: int
    """Channels of every image."""
    classes: list[str]
    """Names of the classes; empty without labels."""

    @property
    def labels(self) -> Array | None:
        """int64 [N]; None without labels."""

    def __len__(self) -> int: ...

    def load(self, index: int) -> Array:
        """Image `index`, [H, W, C]; raises UnreadableImage."""

    def describe(self, index: int) -> str:
        """What to call image `index` in a message."""


def open_source(
    spec: str, *, split: str = "train", channels: int = 3, canvas: int | None = None, cache_dir: Path | None = None
) -> Source:
    """Opens what `spec` names.

    Args:
        spec: a folder, a .txt list of files, ``cifar10:ROOT``, ``cifar100:ROOT``, ``stl10:ROOT``, ``fashion-mnist:ROOT``,
            ``imagenet:ROOT``, ``scenes``, ``scenes:COUNT`` or ``scenes:COUNT:SIZE``.
        split: train or val; only pre-training on STL-10 also takes its unlabeled images, which `labeled` leaves out.
        channels: of the images.
        canvas: larger images are shrunk to fit this square.
        cache_dir: where the index of a folder is kept; by default the user's cache folder.

    Raises:
        UserError: there is no such thing, or there are no images in it.
    """
    if not spec:
        raise UserError("--data is empty; name a folder of images, or scenes")
    path = Path(spec).expanduser()
    name, _, root = spec.partition(":")
    if path.exists() or not (root or name == "scenes"):
        return _open_path(spec, path, split=split, channels=channels, canvas=canvas, cache_dir=cache_dir)
    if name == "scenes":
        return _open_scenes(spec, root, split=split, channels=channels)
    if name == "imagenet":
        return _open_path(spec, Path(root) / split, split=split, channels=channels, canvas=canvas, cache_dir=cache_dir)
    if name not in ARRAYS:
        known = ["scenes", "imagenet", *ARRAYS]
        raise UserError(f"--data {spec}: no such folder, and no data set {name!r}{near_names(name, known)}")
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise UserError(f"--data {spec}: there is no folder {folder}")
    images, labels, classes = ARRAYS[name](folder, split)
    return ArraySource(spec, images, labels, classes, channels=channels)


# ----------------------------------------------------------------------------------------------- files on the disk


class FileSource:
    """Image files; labeled by their first folder if every one of them lies in one."""

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
        blob = [os.fsencode(name) for name in names]  # one block of memory: worker processes share it as it is
        self._ends = np.cumsum([len(name) for name in blob], dtype=np.int64)
        self._names = np.frombuffer(b"".join(blob), dtype=np.uint8)
        self.labels, self.classes = labels, classes or []
        self.since: int | None = (
            None  # set by repre.data.loading.manifest: when the run that shows the files began, in ns
        )

    def __len__(self) -> int:
        return len(self._ends)

    def names(self) -> list[str]:
        """Paths of all files below the root, in order."""
        whole, starts = self._names.tobytes(), [0, *self._ends[:-1].tolist()]
        return [os.fsdecode(whole[start:end]) for start, end in zip(starts, self._ends.tolist())]

    def path(self, index: int) -> Path:
        start = 0 if index == 0 else int(self._ends[index - 1])
        return self.root / os.fsdecode(self._names[start : int(self._ends[index])].tobytes())

    def load(self, index: int) -> Array:
        return read_image(self.path(index), channels=self.channels, canvas=self.canvas)

    def describe(self, index: int) -> str:
        return str(self.path(index))


def _open_path(
    spec: str, path: Path, *, split: str, channels: int, canvas: int | None, cache_dir: Path | None
) -> Source:
    if path.is_file():
        return FileSource(spec, path.parent, _read_list(path), channels=channels, canvas=canvas)
    if not path.is_dir():
        beside = [p.name for p in path.parent.iterdir() if p.is_dir()] if path.parent.is_dir() else []
        raise UserError(f"--data: there is no folder or list {path}{near_names(path.name, beside)}")
    if (path / "train").is_dir() and (path / "val").is_dir():
        path = path / split
    names = _index(path, cache_dir)
    if not names:
        raise UserError(f"--data: {_what_is_in(path)}")
    tops = [name.split("/", 1)[0] if "/" in name else "" for name in names]
    classes = sorted(set(tops))
    labels = None
    if "" not in classes and len(classes) > 1:
        place = {top: number for number, top in enumerate(classes)}
        labels = np.array([place[top] for top in tops], np.int64)
    return FileSource(
        spec,
        path,
        names,
        channels=channels,
        canvas=canvas,
        labels=labels,
        classes=classes if labels is not None else [],
    )


def _read_list(path: Path) -> list[str]:
    """Paths of a text list, one per line, relative to the list's folder; blank lines and # comments do not count."""
    if path.suffix.lower() in EXTENSIONS:
        raise UserError(f"--data {path} is one image; name a folder, or a text file with one path per line")
    try:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
        lines = [line.strip() for line in text.split("\n")]  # a name may hold what else ends a line
    except OSError as error:
        raise UserError(f"--data: cannot read the list {path}: {error.strerror}") from error
    names = [line for line in lines if line and not line.startswith("#")]
    if not names:
        raise UserError(f"--data: the list {path} names no files; write one path per line")
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise UserError(f"--data: {len(missing)} of {len(names)} files of the list {path} do not exist: {shown}")
    return names


def _what_is_in(path: Path) -> str:
    """Words for a folder without images: what it holds instead."""
    kinds = Counter((Path(name).suffix.lower() or "no ending") for _, _, names in os.walk(path) for name in names)
    if not kinds:
        return f"{path} is an empty folder; name one that holds images ({', '.join(EXTENSIONS)})"
    found = ", ".join(f"{count} of {kind}" for kind, count in kinds.most_common(4))
    return f"{path} holds no images, only files with other endings ({found}); {', '.join(EXTENSIONS)} are read"


# -------------------------------------------------------------------------------------------- the index of a folder


def _index(root: Path, cache_dir: Path | None) -> list[str]:
    """Relative paths of all image files below a folder, in a fixed order; cached while no folder of the tree changes."""
    root = root.resolve()
    cache = (cache_dir or cache_home() / "index") / f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:32]}.json"
    cached = _read_cache(cache, root)
    if cached is not None:
        return cached
    names, folders = _scan(root)
    _write_cache(cache, root, names, folders)
    return names


def _scan(root: Path) -> tuple[list[str], dict[str, int]]:
    """Image files below `root`, sorted by their bytes, and the time of change of every folder looked into.

    Hidden files and folders are skipped; linked folders are followed once, so that loops end; a link that leads nowhere
    is listed, and reported when it is read; a folder that cannot be read is an error, since its images would be missing
    without a word.
    """
    names: list[str] = []
    folders: dict[str, int] = {}
    seen: set[tuple[int, int]] = set()
    waiting = [""]
    while waiting:
        relative = waiting.pop()
        folder = root / relative if relative else root
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            folders[relative] = status.st_mtime_ns
            with os.scandir(folder) as entries:
                for entry in sorted(entries, key=lambda e: os.fsencode(e.name)):
                    name = f"{relative}/{entry.name}" if relative else entry.name
                    if entry.name.startswith("."):
                        continue
                    if _is(entry.is_dir):
                        waiting.append(name)
                    elif entry.name.lower().endswith(EXTENSIONS) and (_is(entry.is_file) or _leads_nowhere(entry)):
                        names.append(name)
        except PermissionError as error:
            raise UserError(f"--data: no permission to read the folder {folder}") from error
        except OSError as error:
            raise UserError(f"--data: cannot read the folder {folder}: {error.strerror}") from error
    return sorted(names, key=os.fsencode), folders


def _is(kind: Callable[[], bool]) -> bool:
    try:
        return kind()
    except OSError:  # a link to itself
        return False


def _leads_nowhere(entry: "os.DirEntry[str]") -> bool:
    return entry.is_symlink() and not os.path.exists(entry.path)


def cache_home() -> Path:
    """The user's cache folder of this project."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "repre"


def _read_cache(cache: Path, root: Path) -> list[str] | None:
    try:
        content = json.loads(cache.read_text(encoding="ascii"))
        if content["root"] != str(root) or content["endings"] != list(EXTENSIONS):
            return None
        for relative, changed in content["folders"].items():
            if os.stat(root / relative if relative else root).st_mtime_ns != changed:
                return None
        return list(content["names"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_cache(cache: Path, root: Path, names: list[str], folders: dict[str, int]) -> None:
    """Best effort: a cache that cannot be written costs a scan next time, nothing else."""
    content = {"root": str(root), "endings": list(EXTENSIONS), "folders": folders, "names": names}
    beside = cache.with_name(f"{cache.name}.{os.getpid()}")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(content), encoding="ascii")
        os.replace(beside, cache)
    except OSError:
        beside.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------ data sets in memory


class ArraySource:
    """Images that lie in one array [N, H, W, C] of uint8."""

    def __init__(self, spec: str, images: Array, labels: Array | None, classes: list[str], *, channels: int) -> None:
        if images.shape[3] != channels and images.shape[3] != 1 and channels != 1:
            raise UserError(f"--data {spec} has {images.shape[3]} channels; set --encoder.channels {images.shape[3]}")
        self.spec, self.images, self.labels, self.classes, self.channels = spec, images, labels, classes, channels

    def __len__(self) -> int:
        return len(self.images)

    def load(self, index: int) -> Array:
        image = self.images[index]
        if image.shape[2] == self.channels:
            return image
        if self.channels == 1:
            return np.round(image @ np.array([0.299, 0.587, 0.114]))[..., None].astype(np.uint8)
        return image.repeat(self.channels, axis=2)

    def describe(self, index: int) -> str:
        return f"{self.spec} image {index}"


def _torchvision(kind: str, folder: Path, **split: Any) -> Any:
    import torchvision.datasets

    try:
        return getattr(torchvision.datasets, kind)(str(folder), download=False, **split)
    except RuntimeError as error:
        raise UserError(f"{kind} is not (whole) in {folder}; put the original files there: {error}") from error


def _cifar(kind: str) -> Callable[[Path, str], tuple[Array, Array, list[str]]]:
    def load(folder: Path, split: str) -> tuple[Array, Array, list[str]]:
        data = _torchvision(kind, folder, train=split == "train")
        return data.data, np.array(data.targets, np.int64), list(data.classes)

    return load


def _stl10(folder: Path, split: str) -> tuple[Array, Array | None, list[str]]:
    parts = {"train": "train+unlabeled", "labeled": "train"}
    data = _torchvision("STL10", folder, split=parts.get(split, "test"))
    labels = np.array(data.labels, np.int64)
    return data.data.transpose(0, 2, 3, 1), labels if (labels >= 0).all() else None, list(data.classes)


def _fashion_mnist(folder: Path, split: str) -> tuple[Array, Array, list[str]]:
    part = "train" if split == "train" else "t10k"
    classes = ["tshirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"]
    images = _idx(folder, f"{part}-images-idx3-ubyte", offset=16).reshape(-1, 28, 28, 1)
    return images, _idx(folder, f"{part}-labels-idx1-ubyte", offset=8).astype(np.int64), classes


def _idx(folder: Path, name: str, *, offset: int) -> Array:
    """The bytes of an IDX file after its header, packed or not, in a folder or where torchvision unpacks it."""
    for base in (folder, folder / "FashionMNIST" / "raw", folder / "raw"):
        for path in (base / name, base / f"{name}.gz"):
            if path.is_file():
                data = path.read_bytes()
                try:
                    return np.frombuffer(
                        gzip.decompress(data) if path.suffix == ".gz" else data, np.uint8, offset=offset
                    )
                except (OSError, EOFError, ValueError) as error:
                    raise UserError(f"{path} is damaged: {error}") from error
    raise UserError(f"Fashion-MNIST is not in {folder}: there is no {name}.gz")


ARRAYS: dict[str, Callable[[Path, str], tuple[Array, Array | None, list[str]]]] = {
    "cifar10": _cifar("CIFAR10"),
    "cifar100": _cifar("CIFAR100"),
    "stl10": _stl10,
    "fashion-mnist": _fashion_mnist,
}


def _open_scenes(spec: str, numbers: str, *, split: str, channels: int) -> Scenes:
    if channels != 3:
        raise UserError("the scenes have three channels; leave --encoder.channels at 3")
    try:
        count, size = ([int(part) for part in numbers.split(":")] + [64])[:2] if numbers else (4096, 64)
    except ValueError as error:
        raise UserError(f"--data {spec}: write scenes, scenes:COUNT or scenes:COUNT:SIZE") from error
    if count < 1:
        raise UserError(f"--data {spec}: at least one scene")
    return Scenes(count, config=ScenesConfig(size=size), split=split)


__all__ = ["FileSource", "Source", "UnreadableImage", "open_source"]
