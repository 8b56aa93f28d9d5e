"""Packages are read and their versions checked."""

import hashlib
import io
import struct
import tarfile
import zlib
from pathlib import Path

import pytest

from experiments import debian_packages
from repre.errors import UserError


def deb(content: dict[str, bytes]) -> bytes:
    """A Debian package with these files."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w:xz") as archive:
        for name, data in content.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    members = b""
    for name, data in (("debian-binary", b"2.0"), ("data.tar.xz", tar.getvalue())):
        members += f"{name:<16}{0:<12}{0:<6}{0:<6}{644:<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
    return b"!<arch>\n" + members


def rcc(name: str, content: bytes, *, compressed: bool) -> bytes:
    """A Qt resource file, version 2, with one folder that holds one file."""
    stored = struct.pack(">I", len(content)) + zlib.compress(content) if compressed else content
    payload = struct.pack(">I", len(stored)) + stored
    names, offsets = b"", []
    for word in ("folder", name):
        offsets.append(len(names))
        names += struct.pack(">HI", len(word), 0) + word.encode("utf-16-be")
    tree = struct.pack(">IHIIQ", 0, 2, 1, 1, 0)  # the root has one child, entry 1
    tree += struct.pack(">IHIIQ", offsets[0], 2, 1, 2, 0)
    tree += struct.pack(">IHHHIQ", offsets[1], int(compressed), 0, 0, 0, 0)
    header = 20
    ends = (header, header + len(tree), header + len(tree) + len(payload))
    return struct.pack(">4sIIII", b"qres", 2, *ends) + tree + payload + names


def test_a_package_is_read_and_other_versions_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = deb({"usr/share/a.png": b"one", "usr/b": b""})
    monkeypatch.setattr(debian_packages, "PACKAGES", {"toys": ("1-1", hashlib.sha256(data).hexdigest())})
    with pytest.raises(UserError, match="apt-get download toys=1-1"):
        debian_packages.package_path(tmp_path, "toys")
    path = tmp_path / "toys_1-1_all.deb"
    path.write_bytes(data + b"!")
    with pytest.raises(UserError, match="is not toys 1-1"):
        debian_packages.package_path(tmp_path, "toys")
    path.write_bytes(data)
    files = dict(debian_packages.package_files(debian_packages.package_path(tmp_path, "toys")))
    assert files == {"usr/share/a.png": b"one", "usr/b": b""}


@pytest.mark.parametrize("compressed", [False, True])
def test_qt_resource_files_are_read(compressed: bool) -> None:
    content = rcc("sea1.webp", b"pixels" * 9, compressed=compressed)
    assert list(debian_packages.qt_resources(content)) == [("folder/sea1.webp", b"pixels" * 9)]
