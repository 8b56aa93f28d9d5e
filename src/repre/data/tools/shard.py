"""Writes the images of any source as tar shards, in the order of the source, so that the same command resumes.

OUT/shard-000000.tar       members keep the names that they have in the source, so class folders stay classes
OUT/shards.json            what they were made from and how, and the members and checksum of every shard
OUT/.lock                  locked by the process that writes here

A shard is written under another name and renamed when it is whole. The same images and settings give the same bytes.
"""

import hashlib
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from repre.data.io.archive_members import list_tar
from repre.data.io.image_files import Files, FileSource
from repre.data.io.sources import Source, describe_source
from repre.data.loading.manifest import content_sample
from repre.data.loading.workers import in_workers
from repre.data.tools.check import list_names
from repre.data.tools.shard_config import ShardConfig
from repre.data.tools.shard_images import ShardImage, ShardImages, member_name
from repre.errors import RunError, UserError
from repre.utils.io import write_atomically, write_json
from repre.utils.os_errors import reason_of
from repre.utils.progress import track

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

MANIFEST, LOCK = "shards.json", ".lock"
MEMBER_BYTES = 8 * tarfile.BLOCKSIZE
"""What a member takes beside its content, at most if its name is not absurdly long."""
DIGITS = 8
"""Least digits of a number as a name."""
UNSAFE = re.compile(rb"(?:^|/)(?:/|\.|__MACOSX|$)|\\")
"""Names that are no names of members, or that readers of archives skip: absolute, with . or .. in them, hidden."""


@dataclass(frozen=True)
class Shard:
    """One shard of the manifest.

    Attributes:
        first, end: its files by their numbers in the source, without `end`.
        members: files that it holds. Only the last may have none; then it does not exist.
        bytes: of the archive.
        sha256: of the archive.
        unreadable: number and reason of the files that were left out.
    """

    first: int
    end: int
    members: int
    bytes: int
    sha256: str
    unreadable: list[tuple[int, str]]


@dataclass
class ShardReport:
    """What was written.

    Attributes:
        out: the folder.
        shards: number of all shards.
        written: shards that this call wrote; the others were there and were checked.
        images: in all shards.
        bytes: of all shards.
        unreadable: name and reason of every file that was left out.
        taken: which files are used, and which are not.
    """

    out: Path
    shards: int = 0
    written: int = 0
    images: int = 0
    bytes: int = 0
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The report, line by line."""
        there = f"{self.shards - self.written} existed and are intact, {self.written} were written and read back"
        total = f"{self.images} images in {self.shards} shards of {self.bytes / 2**20:.1f} MiB in all"
        unreadable = [f"{name}: {reason}" for name, reason in self.unreadable]
        left_out = list_names(f"unreadable and left out ({len(unreadable)})", unreadable)
        return [*self.taken, f"{total}: {there}", f"use: repre pretrain --data {self.out}", *left_out]


def write_shards(source: Source, out: Path, *, config: ShardConfig, workers: int) -> ShardReport:
    """Writes the images of a source as shards, without those that are there already.

    Args:
        out: a new folder, an empty one, or one that an earlier call with the same source and settings began.
        workers: processes that read and encode.

    Raises:
        UserError: the source is in memory, or the folder holds something else.
        RunError: the disk is full, a worker died, a shard that was read back differs, or no file can be read.
    """
    if not isinstance(source, FileSource):
        raise UserError(
            f"--data {source.spec} is in memory, but shards are made from files (`repre data scenes` writes the scenes)"
        )
    with _locked(out):
        return _Writer(source, out, config).run(workers)


@dataclass
class _Group:
    """What the next shard holds: files `first` up to `end`, their members as bytes, and those that are unreadable."""

    first: int
    end: int
    members: list[bytes] = field(default_factory=list)
    unreadable: list[tuple[int, str]] = field(default_factory=list)
    size: int = 0
    last: str = ""

    def add(self, name: str, content: bytes) -> None:
        """Adds a member: its header, of user 0 and time 0, and its content in whole blocks."""
        info = tarfile.TarInfo(name)
        info.size = len(content)
        header = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
        self.members.append(header + content + bytes(-len(content) % tarfile.BLOCKSIZE))
        self.size, self.last = self.size + len(self.members[-1]), name


class _Writer:
    """Shards of one source in one folder.

    Attributes:
        header: what the manifest says of the source and the settings.
        shards: the whole shards, in their order.
    """

    def __init__(self, source: FileSource, out: Path, config: ShardConfig) -> None:
        self.source, self.out, self.config = source, out, config
        files = source.files
        self.keeps_names = _are_members(files)
        self.header = {
            "files": len(files),
            "names": files.names.digest,
            "counts": files.counts,
            "sample": content_sample(files),
            "settings": asdict(config),
        }
        self.shards = self._intact()

    def run(self, workers: int) -> ShardReport:
        there = len(self.shards)
        start, count = self.shards[-1].end if there else 0, len(self.source)
        for path in self.out.glob("shard-*.tar"):
            if path not in [self._path(number) for number in range(there)]:
                path.unlink()
        images = in_workers(ShardImages(self.source, self.config), range(start, count), workers=workers)
        counted = track(images, "shards", total=count, initial=start)
        for group in self._groups(counted, start):
            self._write(group)
        for number in range(there, len(self.shards)):
            if problem := self._problem(number):
                raise RunError(
                    f"{self._path(number)} was written, but {problem}; check the disk, then run the command again"
                )
        found = [shard for shard in self.shards if shard.members]
        left_out = [(number, reason) for shard in self.shards for number, reason in shard.unreadable]
        if not found:
            first = f"{self.source.describe(left_out[0][0])}: {left_out[0][1]}"
            raise RunError(f"none of the {count} files of {self.source.spec} can be read, such as {first}")
        return ShardReport(
            self.out,
            shards=len(found),
            written=len(found) - min(there, len(found)),
            images=sum(shard.members for shard in found),
            bytes=sum(shard.bytes for shard in found),
            unreadable=[(self.source.describe(number), reason) for number, reason in left_out],
            taken=describe_source(self.source),
        )

    def _path(self, number: int) -> Path:
        return self.out / f"shard-{number:06}.tar"

    def _groups(self, images: Iterable[ShardImage], start: int) -> Iterator["_Group"]:
        """What each shard holds, in order.

        A shard ends before it would be too large, and before a name that would not be above the last one: readers sort the
        members of a shard by their names.
        """
        most = (self.config.shard_mib << 20) - 2 * tarfile.RECORDSIZE
        group = _Group(start, start)
        for image in images:
            if not image.reason:
                name = self._name(image, after=group.last)
                if name is None or (group.members and group.size + len(image.content) + MEMBER_BYTES > most):
                    yield group
                    group = _Group(image.number, image.number)
                    name = self._name(image, after="")
                assert name is not None, "every name is above the empty one"
                group.add(name, image.content.tobytes())
            else:
                group.unreadable.append((image.number, image.reason))
            group.end = image.number + 1
        if group.end > group.first:
            yield group

    def _name(self, image: ShardImage, *, after: str) -> str | None:
        """Name of the member for an image; None if it would not be above `after`."""
        name = self.source.files.names[image.number]
        if self.keeps_names:
            return member_name(name, image.ending, after=after)
        number = f"{image.number:0{max(DIGITS, len(str(len(self.source))))}}"
        return member_name(number, image.ending or os.path.splitext(name)[1].lower(), after=after)

    def _write(self, group: "_Group") -> None:
        """Writes the next shard, and then the manifest with it."""
        digest, size = "", 0
        if group.members:
            parts = [*group.members, bytes(2 * tarfile.BLOCKSIZE)]
            parts.append(bytes(-sum(map(len, parts)) % tarfile.RECORDSIZE))
            hasher = hashlib.sha256()
            for part in parts:
                hasher.update(part)
            digest, size = hasher.hexdigest(), sum(map(len, parts))
            write_atomically(self._path(len(self.shards)), lambda file: file.writelines(parts))
        self.shards.append(Shard(group.first, group.end, len(group.members), size, digest, group.unreadable))
        write_json(self.out / MANIFEST, self.header | {"shards": [asdict(shard) for shard in self.shards]})

    def _intact(self) -> list[Shard]:
        """The shards of an earlier call up to the first that is not as it was written.

        Raises:
            UserError: the folder holds something else, or shards of another source or of other settings.
        """
        path = self.out / MANIFEST
        if not path.is_file():
            others = [name for name in os.listdir(self.out) if name != LOCK and not name.endswith(".partial")]
            # a shard that was renamed just before the manifest would have been written is written again
            if others not in ([], [self._path(0).name]):
                raise UserError(f"--out {self.out} is not empty, and has no {MANIFEST}; name another folder")
            return []
        try:
            content: dict[str, Any] = json.loads(path.read_bytes())
            self.shards = [
                Shard(**shard | {"unreadable": [(int(number), str(reason)) for number, reason in shard["unreadable"]]})
                for shard in content.pop("shards")
            ]
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{path} is damaged ({error}); delete {self.out} and run the command again") from error
        if difference := _difference(content, self.header):
            raise UserError(
                f"--out {self.out} holds shards of other images or settings ({difference}); give the same command, or "
                "another folder"
            )
        for number in track(range(len(self.shards)), "check shards", total=len(self.shards), unit="shard"):
            if self._problem(number):
                return self.shards[:number]
        return self.shards

    def _problem(self, number: int) -> str:
        """What is wrong with a shard on the disk; empty if it is as it was written."""
        shard, path = self.shards[number], self._path(number)
        if not shard.members:
            return ""
        try:
            with open(path, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
                    return "its checksum differs"
                file.seek(0)
                members = sum(1 for _ in list_tar(file, str(path)))
                return "" if members == shard.members else f"it holds {members} of {shard.members} members"
        except (OSError, UserError) as error:
            return f"it cannot be read: {error}"


def _difference(one: dict[str, Any], other: dict[str, Any]) -> str:
    """What differs between two headers, in words."""
    if one.get("settings") != other["settings"]:
        old, new = one.get("settings") or {}, other["settings"]
        return ", ".join(f"{key}: {old.get(key)} there, {new[key]} here" for key in new if old.get(key) != new[key])
    there, here = one.get("sample") or {}, other["sample"]
    if one | {"sample": here} != other:
        return f"{one.get('files')} files there, {other['files']} here, or of other names"
    if any(here.get(number, content) != content for number, content in there.items()):
        return "their names are the same, their content is not"
    return ""


def _are_members(files: Files) -> bool:
    """Whether the names of files can be those of members: relative, not hidden, and rising in each part of the source."""
    first, last = {0, *np.cumsum(files.counts).tolist()}, b""
    for number, name in enumerate(files.names):
        encoded = os.fsencode(name)
        if UNSAFE.search(encoded) or (encoded <= last and number not in first) or encoded.isdigit():
            return False
        last = encoded
    return True


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Makes a folder and locks it against other processes; the system releases the lock however this one ends. A refusal
    leaves what was there before."""
    is_new, was_unlocked = not out.exists(), not (out / LOCK).exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = open(out / LOCK, "ab")  # noqa: SIM115 - closed below
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {reason_of(error)}") from error
    with lock:
        try:
            if fcntl is not None:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"another process writes shards to {out}; wait for it, or name another folder") from error
        try:
            yield
        except UserError:
            if was_unlocked:
                (out / LOCK).unlink(missing_ok=True)
            if is_new:
                with suppress(OSError):  # a shard is in it
                    out.rmdir()
            raise
