"""The public packages that the evidence is measured on: names, versions, SHA-256, and how to read them.

Debian 12 ("bookworm") has all of them. A package is an `ar` archive with `data.tar.xz` in it; GCompris keeps its pictures
in Qt's resource files. Both are read here without installing anything.
"""

import hashlib
import io
import shutil
import struct
import subprocess
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from repre.errors import UserError

PACKAGES = {
    "tuxpaint-stamps-default": (
        "2022.06.04-1",
        "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
    ),
    "gcompris-qt-data": ("3.1-2", "e9cf06ab2105529068df73085784e835d2ff03f870d2a8091f09125d40abac9f"),
    "lomiri-wallpapers-16.04": ("20.04.0-2", "a99ff6a3bfe451e4cc0682ecb3cc82e71740626d59e4845ae34a0a0e45421eab"),
    "mate-backgrounds": ("1.26.0-1", "7bf4c2209f34b4f61ba6d24c8b58c28b361e82e4b943aae6d42c030169af9e04"),
    "plasma-workspace-wallpapers": (
        "4:5.27.5-2",
        "32cd18b71c8c938a18b3b351f217c02ac590e323caa3cf322fbb875ce8892f8b",
    ),
    "dataset-fashion-mnist": (
        "0.0~git20200523.55506a9-1",
        "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
    ),
}
"""Package: its version and the SHA-256 of its .deb."""


def find(folder: Path, name: str) -> Path:
    """The .deb of a package in a folder, proven to be the pinned one.

    Raises:
        UserError: it is not there, or it is another version.
    """
    version, digest = PACKAGES[name]
    paths = sorted(folder.glob(f"{name}_*.deb"))
    if not paths:
        raise UserError(f"--packages {folder} lacks {name}; get it there: apt-get download {name}={version}")
    for path in paths:
        with open(path, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == digest:
                return path
    raise UserError(f"{paths[0]} is not {name} {version} (SHA-256 {digest}); get it: apt-get download {name}={version}")


def download(folder: Path) -> None:
    """Gets what is missing with apt-get, which checks Debian's signatures; our SHA-256 are checked by `find`."""
    if shutil.which("apt-get") is None:
        raise UserError("apt-get is not here; put the .deb files, by hand, into the folder that --packages names")
    folder.mkdir(parents=True, exist_ok=True)
    for name, (version, _) in PACKAGES.items():
        if not list(folder.glob(f"{name}_*.deb")):
            done = subprocess.run(["apt-get", "download", f"{name}={version}"], cwd=folder, check=False)
            if done.returncode:
                raise UserError(f"apt-get cannot download {name}={version}; is Debian 12 among its sources?")


def files(deb: Path) -> Iterator[tuple[str, bytes]]:
    """Path, without a leading ./, and content of every plain file of a package."""
    for name, content in _ar(deb.read_bytes()):
        if name.startswith("data.tar"):
            with tarfile.open(fileobj=io.BytesIO(content)) as archive:
                for member in archive:
                    if member.isfile():
                        opened = archive.extractfile(member)
                        assert opened is not None, member.name
                        yield member.name.removeprefix("./"), opened.read()


def _ar(data: bytes) -> Iterator[tuple[str, bytes]]:
    if not data.startswith(b"!<arch>\n"):
        raise UserError("a .deb is an ar archive, and this file is none; download it again")
    place = 8
    while place + 60 <= len(data):
        name, size = data[place : place + 16].decode().strip().rstrip("/"), int(data[place + 48 : place + 58])
        yield name, data[place + 60 : place + 60 + size]
        place += 60 + size + size % 2  # entries begin at even places


COMPRESSED, FOLDER = 1, 2
"""Flags of an entry in Qt's resource files."""


def resources(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Path and content of every file in one of Qt's binary resource files (.rcc), as Qt's qresource.cpp reads them."""
    magic, version, tree, payload, names = struct.unpack_from(">4sIIII", data)
    if magic != b"qres":
        raise UserError("this is no resource file of Qt")
    width = 22 if version >= 2 else 14  # of an entry; from version 2 on with a time of change

    def walk(entry: int, above: str) -> Iterator[tuple[str, bytes]]:
        place = tree + entry * width
        name, flags = struct.unpack_from(">IH", data, place)
        length = struct.unpack_from(">H", data, names + name)[0]
        begin = names + name + 6  # after the length and a hash
        path = above if entry == 0 else f"{above}/{data[begin : begin + 2 * length].decode('utf-16-be')}"
        if flags & FOLDER:
            count, first = struct.unpack_from(">II", data, place + 6)
            for child in range(first, first + count):
                yield from walk(child, path)
        elif not flags & ~COMPRESSED:
            start = payload + struct.unpack_from(">I", data, place + 10)[0]
            size = struct.unpack_from(">I", data, start)[0]
            content = data[start + 4 : start + 4 + size]
            yield path.lstrip("/"), zlib.decompress(content[4:]) if flags & COMPRESSED else content

    yield from walk(0, "")
