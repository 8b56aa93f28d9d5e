"""Servers on the loopback that send a folder: web pages with faults, and a bucket of Google's JSON interface."""

import json
import logging
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, quote, unquote, urlsplit

import boto3
import pytest
from moto.server import ThreadedMotoServer

from repre.data.io import remote_access

Fault = Callable[["Handler"], None]
"""Answers a request in place of the server."""


class Server(ThreadingHTTPServer):
    """Sends a folder; `faults[path]` lists the faults of the next requests for a path."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = root
        self.faults: dict[str, list[Fault]] = {}
        self.requests: list[tuple[str, str, str]] = []
        """Path, range and authorization of every request."""
        self.ranges = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Prints nothing where a client gave up."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """Files with ranges, folders as pages of links."""

    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        """Prints nothing."""

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((path, self.headers.get("Range", ""), self.headers.get("Authorization", "")))
        if faults := self.server.faults.get(path):
            faults.pop(0)(self)
            return
        if path.startswith(("/storage/", "/download/")):
            self._google(path)
            return
        file = self.server.root / path.lstrip("/")
        if file.is_dir():
            links = [quote(entry.name) + "/" * entry.is_dir() for entry in file.iterdir()]
            page = "".join(f'<a href="{link}">{link}</a>' for link in ["../", "?C=N;O=D", *links])
            self.answer(200, page.encode(), {"Content-Type": "text/html; charset=utf-8"})
        elif file.is_file():
            self._file(file)
        else:
            self.answer(404, b"no such file")

    def _file(self, file: Path) -> None:
        content = file.read_bytes()
        headers = {"Last-Modified": formatdate(file.stat().st_mtime, usegmt=True)}
        wanted = self.headers.get("Range")
        if wanted is None or not self.server.ranges:
            self.answer(200, content, headers)
            return
        first, last = wanted.removeprefix("bytes=").split("-")
        start, end = int(first), min(int(last or len(content) - 1), len(content) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        self.answer(206 if start <= end else 416, content[start : end + 1], headers)

    def _google(self, path: str) -> None:
        query = {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}
        if path.startswith("/download/"):
            self._file(self.server.root / path.partition("/o/")[2])
            return
        if "/o/" in path:
            self.answer(404, b"{}")
            return
        prefix, found, folders = query.get("prefix", ""), [], set()
        for file in sorted(self.server.root.rglob("*")):
            name = file.relative_to(self.server.root).as_posix()
            if not file.is_file() or not name.startswith(prefix):
                continue
            if query.get("delimiter") and "/" in name[len(prefix) :]:
                folders.add(prefix + name[len(prefix) :].partition("/")[0] + "/")
                continue
            updated = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime(file.stat().st_mtime))
            found.append({"name": name, "bucket": "b", "size": str(file.stat().st_size), "updated": updated})
        content = json.dumps({"items": found, "prefixes": sorted(folders)}).encode()
        self.answer(200, content, {"Content-Type": "application/json"})

    def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None, *, length: int = -1) -> None:
        """Sends an answer, whose header may claim another length."""
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content) if length < 0 else length)} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def web_server(root: Path) -> Iterator[Server]:
    """A running server of a folder."""
    server = Server(root)
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


# ------------------------------------------------------------------------------------------------------------- faults


def status(code: int) -> Fault:
    """Answers with a status, and repeats the request's headers, as some servers do."""
    return lambda handler: handler.answer(code, str(handler.headers).encode())


def stall(seconds: float) -> Fault:
    """Sends half of the file, then nothing."""

    def fault(handler: Handler) -> None:
        content = (handler.server.root / unquote(handler.path).lstrip("/")).read_bytes()
        handler.close_connection = True
        handler.answer(200, content[: len(content) // 2], length=len(content))
        handler.wfile.flush()
        time.sleep(seconds)

    return fault


def cut(handler: Handler) -> None:
    """Sends half of the file and closes the connection."""
    content = (handler.server.root / unquote(handler.path).lstrip("/")).read_bytes()
    handler.answer(200, content[: len(content) // 2], length=len(content))
    handler.close_connection = True


def reset(handler: Handler) -> None:
    """Resets the connection."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True
    os.close(handler.connection.detach())


def too_long(handler: Handler) -> None:
    """Sends a whole file with a length that is too large, and closes the connection."""
    content = (handler.server.root / unquote(handler.path).lstrip("/")).read_bytes()
    handler.answer(200, content, length=len(content) + 100)
    handler.close_connection = True


# ------------------------------------------------------------------------------------------------------------ a bucket

KEY, SECRET = "AKIAREMOTETESTKEY", "remote-test-secret"
"""Credentials of the tests, which nothing may repeat."""


SYSTEMS: dict[str, dict[tuple[int, str], object]] = {}
"""File systems by the address of S3: making one takes a second."""


@contextmanager
def s3_server() -> Iterator[str]:
    """A running server of S3 with an empty bucket `photos-bucket`; the environment names it as botocore reads it."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    url = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
    with pytest.MonkeyPatch.context() as patch:
        use_s3(patch, url)
        boto3.client("s3").create_bucket(Bucket="photos-bucket")
        yield url
    server.stop()


def use_s3(patch: pytest.MonkeyPatch, url: str) -> None:
    """Sets the environment that botocore reads."""
    for name, value in {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
        "AWS_CONFIG_FILE": "/nonexistent",
    }.items():
        patch.setenv(name, value)
    patch.setattr(remote_access, "_systems", SYSTEMS.setdefault(url, {}))


def upload(folder: Path, prefix: str) -> None:
    """Copies a folder to the bucket."""
    client = boto3.client("s3")
    for file in folder.rglob("*"):
        if file.is_file():
            key = f"{prefix}/{file.relative_to(folder).as_posix()}"
            client.put_object(Bucket="photos-bucket", Key=key, Body=file.read_bytes())
