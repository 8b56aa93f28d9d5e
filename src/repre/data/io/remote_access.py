"""Requests to remote storage through fsspec: one file system per process, limits on every wait, repeated attempts.

Credentials come from the ways of the libraries: botocore's for ``s3://``, Google's for ``gs://``, ~/.netrc for ``https://``,
and fsspec's own settings (files in ~/.config/fsspec, variables such as FSSPEC_S3_ANON) for all.
"""

import asyncio
import logging
import os
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from hashlib import sha256
from typing import Any, TypeVar

from repre.data.io.archive_members import MAX_MEMBER_BYTES
from repre.data.io.image_files import Stamp
from repre.data.io.remote_address import WEB, protocol_of
from repre.data.io.remote_errors import RemoteError, ended_early, explain
from repre.errors import UserError
from repre.utils.optional_imports import require

T = TypeVar("T")

STALL_SECONDS = 15.0
"""Longest wait for a connection, and for the next bytes of an answer."""
TOTAL_SECONDS = 60.0
"""Longest time for one object, with all attempts and the waits between them."""
SLOWEST_RATE = 2**18
"""Bytes per second; an object that takes longer than TOTAL_SECONDS at this rate gets as long as it takes."""
LISTING_SECONDS = 600.0
"""Longest time for what is read once at the start: a text list, the list of a folder."""
ATTEMPTS = 6
FIRST_WAIT = 0.5
"""Seconds before the second attempt; twice as many before each further one, and of these a random share of at least half."""
LIBRARIES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}

_random = random.SystemRandom()  # other random numbers stay as they are
_systems: dict[tuple[int, str], Any] = {}
"""File systems by process and protocol. Those of the parent stay here in a forked worker, never used: closing one there
would take the parent's connections out of the queue of events that both share."""


def file_system(protocol: str) -> Any:
    """The file system of a protocol, made when this process first needs it.

    Raises:
        UserError: a package is missing, or there is no such protocol.
    """
    key = os.getpid(), protocol
    if key not in _systems:
        _systems[key] = _connect(protocol)
    return _systems[key]


def read(address: str, *, start: int = 0, end: int | None = None, size: int = 0, seconds: float | None = None) -> bytes:
    """The bytes of a file, or those from `start` up to `end`.

    Args:
        size: of the whole file as it is known; 0: unknown.
        seconds: longest time; by default as TOTAL_SECONDS says.

    Raises:
        RemoteError: after the last attempt.
    """
    expected = size if end is None else end - start
    if seconds is None:
        seconds = max(TOTAL_SECONDS, expected / SLOWEST_RATE)

    async def request(system: Any) -> bytes:
        if protocol_of(address) in WEB:
            content = await _get(system, address, start, end)
        elif end is None:
            content = await _call(system, "cat_file", address)
        else:
            content = await _call(system, "cat_file", address, start=start, end=end)
        if size and len(content) != expected:
            raise ended_early(len(content), expected)
        return content

    return attempt(protocol_of(address), request, seconds=seconds)


def stamp(address: str) -> Stamp:
    """Size and time of a file.

    Raises:
        RemoteError: it does not exist, or the server of a web address sends files as a whole only.
    """

    async def request(system: Any) -> Stamp:
        if protocol_of(address) in WEB:
            return await _web_stamp(system, address)
        found = await _call(system, "info", address)
        if found.get("type") == "directory":
            raise RemoteError("a folder, not a file")
        return stamp_of(found)

    return attempt(protocol_of(address), request, seconds=TOTAL_SECONDS)


def list_folder(address: str) -> list[dict[str, Any]]:
    """What fsspec tells about the files and folders in a folder.

    Raises:
        RemoteError: after the last attempt.
    """

    async def request(system: Any) -> list[dict[str, Any]]:
        return await _call(system, "ls", address, detail=True)

    return attempt(protocol_of(address), request, seconds=LISTING_SECONDS)


def list_bucket(address: str, *, delimiter: str = "") -> Iterator[dict[str, Any]]:
    """The objects of S3 whose keys begin as `address`, sorted by their bytes, page by page as S3 answers.

    Args:
        delimiter: keys that have it after that beginning are left out; their common beginnings are told instead.

    Raises:
        RemoteError: after the last attempt.
    """
    protocol, _, rest = address.partition("://")
    bucket, _, prefix = rest.partition("/")
    more: dict[str, str] = {}

    async def request(system: Any) -> dict[str, Any]:
        return await system._call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, Delimiter=delimiter, **more)

    while True:
        page = attempt(protocol, request, seconds=TOTAL_SECONDS)
        yield page
        if not page.get("IsTruncated"):
            return
        more = {"ContinuationToken": page["NextContinuationToken"]}


def stamp_of(found: dict[str, Any]) -> Stamp:
    """Size and time of what fsspec tells about a file; without a time, a number of its checksum, too small for a time."""
    size = int(found.get("size") or found.get("Size") or 0)
    for key in ("LastModified", "mtime", "updated", "last_modified", "Last-Modified", "created"):
        if modified := _nanoseconds(found.get(key)):
            return size, modified
    for key in ("ETag", "etag", "md5Hash", "crc32c", "Content-MD5", "Digest"):
        if checksum := found.get(key):
            return size, int.from_bytes(sha256(str(checksum).encode()).digest()[:6])
    return size, 0


def attempt(protocol: str, request: Callable[[Any], Awaitable[T]], *, seconds: float) -> T:
    """Runs a request until it succeeds, at most ATTEMPTS times and for so many seconds.

    Args:
        request: is given the file system and awaited in the thread of fsspec.

    Raises:
        RemoteError: the last reason, with the number of attempts.
    """
    from fsspec.asyn import get_loop, sync

    deadline = time.monotonic() + seconds
    number = 1
    while True:
        try:
            system = file_system(protocol)
            return sync(get_loop(), request, system, timeout=max(deadline - time.monotonic(), 0.01))
        except UserError:
            raise
        except Exception as error:
            failure = explain(error)
        wait = FIRST_WAIT * 2 ** (number - 1) * _random.uniform(0.5, 1)
        if not failure.again or number == ATTEMPTS or time.monotonic() + wait >= deadline:
            break
        time.sleep(wait)
        number += 1
    attempts = f" ({number} attempts)" if number > 1 else ""
    raise RemoteError(f"{failure}{attempts}", kind=failure.kind)


def _connect(protocol: str) -> Any:
    name = f"--data {protocol}://"
    fsspec = require("fsspec", extra="remote", purpose=name)
    from fsspec.registry import known_implementations

    if protocol in LIBRARIES:
        require(LIBRARIES[protocol], extra="remote", purpose=name)
    try:
        kind = fsspec.get_filesystem_class(protocol)
    except ValueError:
        raise UserError(f"{name}: unknown protocol; use s3, gs, https or another one that fsspec knows") from None
    except ImportError:
        hint = known_implementations.get(protocol, {}).get("err", "install its package")
        raise UserError(f"{name} needs another package: {hint}") from None
    known = fsspec.config.conf.get(protocol, {})
    options = _options(protocol)
    for key, value in options.items():
        if isinstance(value, dict) and isinstance(known.get(key), dict):
            options[key] = known[key] | value
    logging.getLogger("gcsfs").addHandler(logging.NullHandler())  # it would print tracebacks of what is told in words
    system = kind(**options, use_listings_cache=False, skip_instance_cache=True)
    if LIBRARIES.get(protocol) == "s3fs":
        system.retries = 1  # attempts are counted here
    return system


def _options(protocol: str) -> dict[str, Any]:
    """Limits on every wait, in the words of each library."""
    library = LIBRARIES.get(protocol)
    if library == "s3fs":
        limits = {"connect_timeout": STALL_SECONDS, "read_timeout": STALL_SECONDS, "retries": {"total_max_attempts": 1}}
        return {"config_kwargs": limits, "max_concurrency": 1}  # with more, each file costs a request for its size
    if library in ("aiohttp", "gcsfs"):
        from aiohttp import ClientTimeout

        limit = ClientTimeout(total=None, sock_connect=STALL_SECONDS, sock_read=STALL_SECONDS)
        if library == "gcsfs":
            return {"requests_timeout": limit}
        headers = {"Accept-Encoding": "identity"}  # so that the sizes of answers are those of files
        return {"client_kwargs": {"timeout": limit, "trust_env": True}, "headers": headers}
    return {}


async def _call(system: Any, method: str, *arguments: Any, **options: Any) -> Any:
    """A method of a file system, in a thread if it is not asynchronous, so that the limits hold for it too."""
    if system.async_impl:
        return await getattr(system, f"_{method}")(*arguments, **options)
    return await asyncio.to_thread(getattr(system, method), *arguments, **options)


async def _get(system: Any, url: str, start: int, end: int | None) -> bytes:
    """A file or a range of it from a web server; what lies at or beyond its end is empty."""
    session = await system.set_session()
    options = dict(system.kwargs)
    if end is not None:
        options["headers"] = options.get("headers", {}) | {"Range": f"bytes={start}-{end - 1}"}
    async with session.get(system.encode_url(url), **options) as answer:
        if answer.status == 416:
            return b""
        answer.raise_for_status()
        if start and answer.status != 206:
            raise RemoteError("the server sends only whole files (no ranges)")
        parts: list[bytes] = []
        size = 0
        async for part in answer.content.iter_chunked(2**16):
            parts.append(part)
            size += len(part)
            if size > MAX_MEMBER_BYTES:
                raise RemoteError(f"more than {MAX_MEMBER_BYTES / 2**30:.0f} GiB")
            if end is not None and size >= end - start:
                break
        return b"".join(parts)[: None if end is None else end - start]


async def _web_stamp(system: Any, url: str) -> Stamp:
    """Size and time of a file on a web server, by a request for its first byte."""
    session = await system.set_session()
    headers = system.kwargs.get("headers", {}) | {"Range": "bytes=0-0"}
    async with session.get(system.encode_url(url), **(system.kwargs | {"headers": headers})) as answer:
        answer.raise_for_status()
        total = answer.headers.get("Content-Range", "").rpartition("/")[2]
        if answer.status != 206 or not total.isdigit():
            raise RemoteError("the server sends only whole files (no ranges)")
        return stamp_of({"size": int(total), **answer.headers})


def _nanoseconds(value: Any) -> int:
    """Nanoseconds since 1970 of a time in any of the forms that file systems give; 0 if it is none."""
    try:
        if isinstance(value, int | float):
            return int(value * 10**9)
        if isinstance(value, str):
            value = parsedate_to_datetime(value) if "," in value else datetime.fromisoformat(value)
        if isinstance(value, datetime):
            value = value if value.tzinfo else value.replace(tzinfo=UTC)
            return int(value.timestamp() * 10**6) * 1000
    except (ValueError, OverflowError):
        pass
    return 0
