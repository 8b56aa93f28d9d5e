"""What a ``--data`` string means: files anywhere, a data set by name, or the embedded scenes.

photos/                         a folder, searched recursively; one of tar archives alone is read as shards
photos.txt                      a text list of files
'photos/*/raw'                  folders, archives or images by a pattern
shards/{0000..0099}.tar         tar shards; photos.zip: a zip archive
hf:NAME[:SPLIT], hf:FOLDER      Hugging Face, see `hub_data`; photos.parquet with bytes of images
s3://, gs://, https://          a folder, a text list or archives elsewhere
cifar10:ROOT                    likewise cifar100, stl10, fashion-mnist, imagenet
scenes:COUNT:SIZE               the embedded scenes
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from repre.data.io.archives import ARCHIVES, archives_alone, open_archives
from repre.data.io.blobs import LocalBlob
from repre.data.io.decode import EXTENSIONS
from repre.data.io.dicom import require_pydicom
from repre.data.io.file_choice import FileChoice
from repre.data.io.folder_index import list_images
from repre.data.io.hub_data import TABLES, is_saved_data_set
from repre.data.io.image_files import Files, FileSource, Opened, class_labels
from repre.data.io.joined_files import JoinedFiles
from repre.data.io.local_files import (
    LocalFiles,
    check_listed,
    check_readable,
    is_file,
    is_folder,
    read_list,
    why_unusable,
)
from repre.data.io.names import Names
from repre.data.io.remote_address import REMOTE_GIB, check_address, is_address
from repre.data.io.spec_patterns import expand_braces, expand_pattern, has_pattern
from repre.data.io.taken_files import describe_files, take_files
from repre.data.io.torchvision_sets import DATA_SETS, ArraySource
from repre.data.scenes import Scenes, ScenesConfig
from repre.errors import UserError, near_names
from repre.utils.evenly_spaced import evenly_spaced
from repre.utils.printable_text import printable

Array = np.ndarray

PACKED_ARCHIVES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".7z", ".rar")
"""Endings of archives that are refused."""
MAX_NAMED = 8
"""Strings that a message names, of many as a shell writes for photos/*.jpg."""
SAMPLE = 1000
"""Names that are looked at for formats that need an extra."""


class Source(Protocol):
    """Images by index, with labels if the data have them. Sources are sent to worker processes."""

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
        """Name of image `index` in messages."""


def open_source(
    data: str | Sequence[str],
    *,
    split: str = "train",
    channels: int = 3,
    canvas: int | None = None,
    raw_values: bool = False,
    choice: FileChoice | None = None,
    labels: bool = True,
    cache_dir: Path | None = None,
    remote_gib: float = REMOTE_GIB,
) -> Source:
    """Opens what `data` names; see the top of this file.

    Args:
        data: one string, or several whose files come one after another, without labels.
        split: train or val. The train split of STL-10 includes its unlabeled images; ``labeled`` leaves them out.
        channels: channels of the images.
        canvas: larger images are shrunk to fit this square.
        raw_values: see `FileSource`.
        choice: which files are used; None: all images, masks too.
        labels: look for classes in the folders of the names, which takes time where there are millions.
        cache_dir: folder for the lists of folders and archives; by default the user's cache folder.
        remote_gib: size in GiB of the fetched files that are kept on the disk.

    Raises:
        UserError: the data do not exist or hold no images.
    """
    choice = _plain(choice)
    specs = [data] if isinstance(data, str) else list(data)
    if channels < 1:
        raise UserError(f"channels must be at least 1, not {channels}")
    if not specs or not all(specs):
        raise UserError("--data is empty; name a folder of images, or scenes")
    if len(specs) == 1 and (in_memory := _in_memory(specs[0], split=split, channels=channels)) is not None:
        if choice.include or choice.exclude or choice.any_ending:
            raise UserError(
                f"--data {specs[0]} is not a folder of files; leave out --include, --exclude and --any-ending"
            )
        return in_memory
    check_data(data)
    parts = []
    if len(specs) > 1:
        images = [  # as a shell expands photos/*.jpg
            spec for spec in specs if spec.lower().endswith(EXTENSIONS) and is_file(Path(spec).expanduser())
        ]
        if images:
            others = set(specs) - set(images)
            specs = [spec for spec in specs if spec in others]
            parts.append(Opened(LocalFiles(Path(), Names.of(str(Path(image).expanduser()) for image in images))))
    how = _How(split, choice, labels, cache_dir, remote_gib)
    parts += [_open_files(spec, how) for spec in specs]
    whole = parts[0] if len(parts) == 1 else Opened(JoinedFiles([part.files for part in parts]))
    taken = take_files(whole, choice)
    files = taken.opened.files
    some = evenly_spaced(len(files), SAMPLE)
    if any(files.names[number].lower().endswith(".dcm") for number in some):
        require_pydicom(f"the DICOM files of {files.location}")
    return FileSource(
        describe_data(data),
        files,
        channels=channels,
        canvas=canvas,
        raw_values=raw_values,
        labels=taken.opened.labels,
        classes=list(whole.classes),
        every=taken.every,
        label_images=taken.label_images,
    )


def _plain(choice: FileChoice | None) -> FileChoice:
    """A choice with its patterns as tuples, as the command line and YAML files give others."""
    if choice is None:
        return FileChoice(masks="take")
    return replace(choice, include=tuple(choice.include), exclude=tuple(choice.exclude))


def raw_name(source: Source, index: int) -> str:
    """Image `index` as `Source.describe` gives it, but without escapes: a path that opens the file."""
    return source.files.describe(index) if isinstance(source, FileSource) else source.describe(index)


def describe_data(data: str | Sequence[str]) -> str:
    """One or several ``--data`` strings as one text for messages."""
    if isinstance(data, str):
        return data
    few = len(data) <= MAX_NAMED
    return ", ".join(data) if few else f"{', '.join(data[: MAX_NAMED - 1])} and {len(data) - MAX_NAMED + 1} more"


def describe_source(source: Source) -> list[str]:
    """What a source takes and leaves of the files that it found, line by line; see `describe_files`."""
    return describe_files(source.files, source.label_images) if isinstance(source, FileSource) else []


def check_data(data: str | Sequence[str]) -> None:
    """Refuses ``--data`` strings with a password or a signature, before anything repeats them.

    Raises:
        UserError: without the secret in its message.
    """
    for spec in [data] if isinstance(data, str) else data:
        check_address(spec)


# ------------------------------------------------------------------------------------------------------------ in memory


def _in_memory(spec: str, *, split: str, channels: int) -> Source | None:
    """The scenes or a data set by name; None for anything else."""
    name, _, root = spec.partition(":")
    path = Path(spec).expanduser()
    if is_file(path) or is_folder(path) or name not in ("scenes", *DATA_SETS):
        return None
    if name == "scenes":
        return _open_scenes(spec, root, split=split, channels=channels)
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise UserError(f"--data {spec}: there is no folder {folder}")
    images, labels, classes = DATA_SETS[name](folder, split)
    return ArraySource(spec, images, labels, classes, channels=channels)


def _open_scenes(spec: str, numbers: str, *, split: str, channels: int) -> Scenes:
    if channels != 3:
        raise UserError("the scenes have three channels; leave --encoder.channels at 3")
    try:
        count, size = ([int(part) for part in numbers.split(":")] + [64])[:2] if numbers else (4096, 64)
    except ValueError as error:
        raise UserError(f"--data {spec}: write scenes, scenes:COUNT or scenes:COUNT:SIZE") from error
    if count < 1:
        raise UserError(f"--data {spec}: write at least one scene")
    return Scenes(count, config=ScenesConfig(size=size), split=split)


# ---------------------------------------------------------------------------------------------------------------- files


class _How(NamedTuple):
    """The arguments of `open_source` that say how files are found."""

    split: str
    choice: FileChoice
    labels: bool
    cache_dir: Path | None
    remote_gib: float


def _open_files(spec: str, how: _How) -> Opened:
    name, _, rest = spec.partition(":")
    path = Path(spec).expanduser()
    if is_address(spec):
        from repre.data.io.remote_files import open_remote

        return _with_folders(
            open_remote(
                spec,
                split=how.split,
                any_ending=how.choice.any_ending,
                cache_dir=how.cache_dir,
                gib=how.remote_gib,
            ),
            how,
        )
    if is_folder(path):
        return _open_folder(spec, path, how)
    if name == "hf" or spec.lower().endswith(TABLES):
        from repre.data.io.hub_files import open_hub

        return open_hub(spec, rest if name == "hf" else spec, split=how.split)
    if name in ("scenes", *DATA_SETS):
        raise UserError(f"--data {spec} is in memory and cannot be joined with other data; name it alone")
    if is_file(path) or not rest:
        return _open_path(spec, path, how)
    if name == "imagenet":
        return _open_folder(spec, Path(rest).expanduser() / how.split, how)
    known = ["scenes", "imagenet", "hf", *DATA_SETS]
    raise UserError(f"--data {spec}: no such folder, and no data set {name!r}{near_names(name, known)}")


def _open_path(spec: str, path: Path, how: _How) -> Opened:
    """Archives, a text list, or a pattern."""
    lower = spec.lower()
    if lower.endswith(PACKED_ARCHIVES):
        raise UserError(
            f"--data {spec} is compressed as a whole, so no image can be read alone; unpack it, or write it again as .tar"
        )
    if not is_file(path) and "{" in spec:
        paths = [Path(one).expanduser() for one in expand_braces(spec)]
        if not lower.endswith(ARCHIVES):
            raise UserError(f"--data {spec}: braces stand for numbered archives, such as shards/{{0000..0099}}.tar")
        missing = [str(one) for one in paths if not is_file(one)]
        if missing:
            if (reason := why_unusable(Path(missing[0]))) is not None:
                raise UserError(f"--data: {reason}")
            raise UserError(
                f"--data {spec}: {len(missing)} of {len(paths)} archives do not exist: "
                + ", ".join(missing[:3])
                + (", ..." if len(missing) > 3 else "")
            )
        return _open_archives(paths, how)
    if is_file(path):
        if lower.endswith(ARCHIVES):
            return _open_archives([path], how)
        names = read_list(path)
        if b"://" in names.encoded(0):
            from repre.data.io.remote_files import RemoteFiles

            return Opened(RemoteFiles.of_addresses(names, gib=how.remote_gib))
        check_listed(path, names)
        return Opened(LocalFiles(path.parent, names))
    if has_pattern(spec):
        return _open_pattern(spec, how)
    if (reason := why_unusable(path)) is not None:
        raise UserError(f"--data: {reason}")
    siblings = [p.name for p in path.parent.iterdir()] if is_folder(path.parent) else []
    raise UserError(f"--data: there is no folder, list or archive {printable(path)}{near_names(path.name, siblings)}")


def _open_archives(paths: Sequence[Path], how: _How) -> Opened:
    return _with_folders(open_archives([LocalBlob(path) for path in paths], cache_dir=how.cache_dir), how)


def _open_pattern(spec: str, how: _How) -> Opened:
    root, found = expand_pattern(spec)
    images = [name for name in found if name.lower().endswith(EXTENSIONS)]
    archives = [root / name for name in found if name.lower().endswith(ARCHIVES)]
    folders = [root / name for name in found if (root / name).is_dir()]
    parts: list[Files] = [LocalFiles(root, Names.of(images))] if images else []
    if archives:
        parts.append(_open_archives(archives, how).files)
    for folder in folders:
        if not any(folder.is_relative_to(other) for other in folders if other != folder):
            parts.append(_open_folder(spec, folder, how).files)
    if not parts:
        raise UserError(
            f"--data {spec}: none of the {len(found)} files that match, such as {found[0]}, is an image, archive or folder"
        )
    return Opened(parts[0] if len(parts) == 1 else JoinedFiles(parts))


def _open_folder(spec: str, path: Path, how: _How) -> Opened:
    """A folder of images, of shards, or of a saved data set of Hugging Face.

    If every image is in a subfolder and there are several, the subfolders are classes. A folder that holds train/ and val/
    stands for the one that `split` names.
    """
    if not is_folder(path):
        siblings = [p.name for p in path.parent.iterdir() if p.is_dir()] if is_folder(path.parent) else []
        raise UserError(f"--data: there is no folder {path}{near_names(path.name, siblings)}")
    check_readable(path)
    if is_folder(path / "train") and is_folder(path / "val"):
        path = path / how.split
        check_readable(path)
    if is_saved_data_set(path):
        from repre.data.io.hub_files import open_hub

        return open_hub(spec, str(path), split=how.split)
    if archives := archives_alone(path):
        return _open_archives(archives, how)
    names, left = list_images(path, any_ending=how.choice.any_ending, cache_dir=how.cache_dir)
    return _with_folders(LocalFiles(path, names, left), how)


def _with_folders(files: Files, how: _How) -> Opened:
    return Opened(files, *class_labels(files)) if how.labels else Opened(files)
