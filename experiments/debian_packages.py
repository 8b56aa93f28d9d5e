"""The public packages that the data sets are built from: names, versions, SHA-256, and how to read them.

Debian 12 ("bookworm") has all of them. A package is an `ar` archive with a `data.tar.xz`; GCompris stores its images in
Qt resource files. Both are read here without installing anything.
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
"""Package -> version and SHA-256 of its .deb."""


def package_path(folder: Path, name: str) -> Path:
    """Returns the .deb of a package in a folder, after checking its SHA-256.

    Raises:
        UserError: it is missing, or it is another version.
    """
    version, digest = PACKAGES[name]
    paths = sorted(folder.glob(f"{name}_*.deb"))
    if not paths:
        raise UserError(f"--packages {folder} lacks {name}; download it there: apt-get download {name}={version}")
    for path in paths:
        with open(path, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == digest:
                return path
    raise UserError(
        f"{paths[0]} is not {name} {version} (SHA-256 {digest}); download it: apt-get download {name}={version}"
    )


def download(folder: Path) -> None:
    """Downloads missing packages with apt-get, which checks Debian's signatures. `package_path` checks the SHA-256.

    Raises:
        UserError: there is no apt-get, or it cannot download a package.
    """
    if shutil.which("apt-get") is None:
        raise UserError(f"this machine has no apt-get; copy the .deb files into {folder} (--packages)")
    folder.mkdir(parents=True, exist_ok=True)
    for name, (version, _) in PACKAGES.items():
        if not list(folder.glob(f"{name}_*.deb")):
            result = subprocess.run(["apt-get", "download", f"{name}={version}"], cwd=folder, check=False)
            if result.returncode:
                raise UserError(f"apt-get cannot download {name}={version}; add Debian 12 to its sources")


def package_files(deb: Path) -> Iterator[tuple[str, bytes]]:
    """Yields path (without a leading ./) and content of every regular file of a package."""
    for name, content in _ar_members(deb.read_bytes()):
        if name.startswith("data.tar"):
            with tarfile.open(fileobj=io.BytesIO(content)) as archive:
                for member in archive:
                    if member.isfile():
                        file = archive.extractfile(member)
                        assert file is not None, member.name
                        yield member.name.removeprefix("./"), file.read()


def _ar_members(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yields name and content of every member of an `ar` archive."""
    if not data.startswith(b"!<arch>\n"):
        raise UserError("a .deb must be an ar archive, but this file is not; download it again")
    offset = 8
    while offset + 60 <= len(data):
        name, size = data[offset : offset + 16].decode().strip().rstrip("/"), int(data[offset + 48 : offset + 58])
        yield name, data[offset + 60 : offset + 60 + size]
        offset += 60 + size + size % 2  # members begin at even offsets


COMPRESSED, FOLDER = 1, 2
"""Flags of an entry in a Qt resource file."""


def qt_resources(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yields path and content of every file in a binary Qt resource file (.rcc); the format is Qt's qresource.cpp."""
    magic, version, tree, payload, names = struct.unpack_from(">4sIIII", data)
    if magic != b"qres":
        raise UserError("this is not a Qt resource file")
    entry_bytes = 22 if version >= 2 else 14  # version 2 added the time of modification

    def walk(entry: int, parent: str) -> Iterator[tuple[str, bytes]]:
        offset = tree + entry * entry_bytes
        name, flags = struct.unpack_from(">IH", data, offset)
        length = struct.unpack_from(">H", data, names + name)[0]
        begin = names + name + 6  # skips the length and a hash
        path = parent if entry == 0 else f"{parent}/{data[begin : begin + 2 * length].decode('utf-16-be')}"
        if flags & FOLDER:
            count, first = struct.unpack_from(">II", data, offset + 6)
            for child in range(first, first + count):
                yield from walk(child, path)
        elif not flags & ~COMPRESSED:
            start = payload + struct.unpack_from(">I", data, offset + 10)[0]
            size = struct.unpack_from(">I", data, start)[0]
            content = data[start + 4 : start + 4 + size]
            yield path.lstrip("/"), zlib.decompress(content[4:]) if flags & COMPRESSED else content

    yield from walk(0, "")
