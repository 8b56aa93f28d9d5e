"""What tar and zip archives hold, and where: listed once by the standard library, then any member is read by its place.

tar   a header of 512 bytes, then the content
zip   a header of 30 bytes and more, then the content, as it is or compressed by deflate
"""

import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from repre.data.io.image_limits import UnreadableImage
from repre.errors import UserError

TAR, STORED, DEFLATED = 0, 1, 2
"""How a member is packed."""
BLOCK = tarfile.BLOCKSIZE
ZIP_HEADER = struct.Struct("<4s5H3I2H")
ZIP_SLACK = 4096
"""What is read beyond a zip member for the name and other fields of its header."""
MAX_MEMBER_BYTES = 1 << 31
"""Larger members are refused: they are read whole."""
TAIL = 1 << 20
"""Bytes after the end mark of a tar archive that are checked."""


class Member(NamedTuple):
    """A file in an archive.

    Attributes:
        name: its path.
        offset: where its header begins.
        packed: bytes that it takes in the archive, without the header.
        size: bytes of the content.
        checksum: CRC-32 of the content of a zip member; 0 in a tar archive.
        packing: TAR, STORED or DEFLATED.
    """

    name: str
    offset: int
    packed: int
    size: int
    checksum: int
    packing: int


def list_tar(file: BinaryIO, location: str) -> Iterator[Member]:
    """The regular files of a tar archive.

    Raises:
        UserError: it is compressed, damaged, or cut.
    """
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            end = 0
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # which would grow with the archive
                end = archive.offset
                if member.issym() or member.islnk():
                    raise UserError(
                        f"--data: {location}: {member.name} is a link to another file; write the archive again with tar "
                        "--dereference --hard-dereference"
                    )
                if member.isreg() and not member.issparse():
                    yield Member(member.name, member.offset_data - BLOCK, member.size, member.size, 0, TAR)
    except (tarfile.TarError, EOFError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        hint = (
            "is the download complete?"
            if file.tell() > BLOCK or "empty" in str(error)
            else "name a tar archive without compression (.tar)"
        )
        raise UserError(f"--data: {location} is a damaged or cut tar archive ({error}); {hint}") from error
    file.seek(end)
    tail = file.read(TAIL)
    if len(tail) < BLOCK:
        raise UserError(f"--data: {location} ends without the end mark of a tar archive: it was cut. Copy it again")
    if tail.strip(b"\0"):
        raise UserError(
            f"--data: {location} has data after its end mark, such as another archive, which would be ignored; write "
            "one archive with `repre data shard`, or name several"
        )


def list_zip(file: BinaryIO, location: str) -> Iterator[Member]:
    """The files of a zip archive.

    Raises:
        UserError: it is damaged, cut or encrypted.
    """
    packings = {zipfile.ZIP_STORED: STORED, zipfile.ZIP_DEFLATED: DEFLATED}
    try:
        with zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                if member.is_dir():
                    continue
                if member.flag_bits & 1:
                    raise UserError(f"--data: {location} is encrypted; unpack it, or write it again without a password")
                if member.compress_type not in packings:
                    raise UserError(
                        f"--data: {location}: {member.filename} is compressed by method {member.compress_type}; write the "
                        "archive again with deflate or without compression (zip -0)"
                    )
                on_windows = member.create_system == 0  # whose older tools write backslashes
                yield Member(
                    member.filename.replace("\\", "/") if on_windows else member.filename,
                    member.header_offset,
                    member.compress_size,
                    member.file_size,
                    member.CRC,
                    packings[member.compress_type],
                )
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"--data: {location} is a damaged or cut zip archive ({error}); is the download complete?"
        ) from error


def span(member: Member) -> int:
    """Bytes to read from the offset of a member on, so that they hold all of it."""
    return BLOCK + member.packed if member.packing == TAR else ZIP_HEADER.size + ZIP_SLACK + member.packed


def unpack(member: Member, content: bytes) -> bytes:
    """The content of a member.

    Args:
        content: `span` bytes of the archive, fewer at its end.

    Raises:
        UnreadableImage: these bytes are not that member.
    """
    if member.packing == TAR:
        return _unpack_tar(member, content)
    if len(content) < ZIP_HEADER.size:
        raise UnreadableImage("the archive is shorter than its index says")
    mark, *_, name_bytes, extra_bytes = ZIP_HEADER.unpack_from(content)
    if mark != b"PK\x03\x04":
        raise UnreadableImage("the archive changed after its index was made")
    start = ZIP_HEADER.size + name_bytes + extra_bytes
    if start > ZIP_HEADER.size + ZIP_SLACK:
        raise UnreadableImage("a header of more than 4 KiB")
    packed = content[start : start + member.packed]
    if member.packing == DEFLATED:
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            packed = unpacker.decompress(packed, member.size + 1)
        except zlib.error as error:
            raise UnreadableImage(f"damaged in the archive: {error}") from error
    if len(packed) != member.size or zlib.crc32(packed) != member.checksum:
        raise UnreadableImage("damaged in the archive: its checksum differs")
    return packed


def _unpack_tar(member: Member, content: bytes) -> bytes:
    if len(content) < BLOCK + member.size:
        raise UnreadableImage("the archive is shorter than its index says")
    try:
        header = tarfile.TarInfo.frombuf(content[:BLOCK], "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise UnreadableImage("the archive changed after its index was made") from error
    if header.size != member.size:
        raise UnreadableImage("the archive changed after its index was made")
    return content[BLOCK : BLOCK + member.size]
