"""Why a request to remote storage failed, in a few words, and whether another attempt may help.

The texts of the libraries' own errors are never repeated: they hold addresses, queries and headers.
"""

import errno
import os
import socket
from collections.abc import Iterator
from typing import Any, Literal

Kind = Literal["missing", "denied", "other"]

AGAIN = (408, 425, 429, 500, 502, 503, 504)
"""States of an answer after which another attempt may help."""
DENIED, MISSING = (401, 403, 407), (404, 410)
AGAIN_CODES = ("SlowDown", "Throttl", "TooManyRequests", "RequestLimitExceeded", "RequestTimeout", "InternalError")
"""Beginnings of the codes of S3 after which another attempt may help, whatever the state."""
DENIED_CODES = ("ExpiredToken", "InvalidToken", "InvalidAccessKeyId", "SignatureDoesNotMatch")
ENDED_EARLY = (
    "ClientPayloadError",
    "IncompleteRead",
    "ContentLengthError",
    "TransferEncodingError",
    "ResponseStreaming",
)
DAMAGED = ("ChecksumError", "ResponseParserError")
NOT_SENT = (
    "Connect",
    "Disconnected",
    "HTTPClientError",
    "ClientOSError",
    "DNSError",
    "ProxyError",
    "EndpointConnection",
)
NO_CREDENTIALS = (
    "Credential",
    "ProfileNotFound",
    "RefreshError",
    "GoogleAuthError",
    "TokenRetrieval",
    "UnauthorizedSSO",
)


class RemoteError(Exception):
    """A request that failed; the message is a short reason without addresses, headers or credentials.

    Args:
        kind: whether there is no such file, or credentials are needed.
        again: another attempt may help.
    """

    def __init__(self, reason: str, *, kind: Kind = "other", again: bool = False) -> None:
        super().__init__(reason)
        self.kind, self.again = kind, again


def ended_early(size: int, expected: int) -> RemoteError:
    """The error for an answer with fewer bytes than there should be, or more."""
    return RemoteError(f"the answer has {size} bytes instead of {expected}", again=True)


def explain(error: BaseException) -> RemoteError:
    """The reason of any error that fsspec or a library below it raised."""
    errors = list(_chain(error))
    for one in errors:
        if isinstance(one, RemoteError):
            return one
    names = " ".join(type(one).__name__ for one in errors)
    if _has(names, ENDED_EARLY):
        return RemoteError("the answer ended early", again=True)
    status, code = next((found for one in errors if any(found := _answer(one))), (0, ""))
    if status or code:
        return _explain_answer(status, code)
    if any(isinstance(one, FileNotFoundError | NotADirectoryError) for one in errors):
        return RemoteError("not found", kind="missing")
    if any(isinstance(one, PermissionError) or str(one).startswith("Forbidden:") for one in errors):
        return RemoteError("access denied", kind="denied")
    if _has(names, NO_CREDENTIALS):
        return RemoteError("no credentials", kind="denied")
    if "Certificate" in names or "SSLError" in names:
        return RemoteError("its certificate is not valid")
    if "timeout" in names.lower() or any(isinstance(one, TimeoutError) for one in errors):
        return RemoteError("no answer in time", again=True)
    if _has(names, DAMAGED):
        return RemoteError("damaged in transfer", again=True)
    if any(isinstance(one, ConnectionError | socket.gaierror) for one in errors) or _has(names, NOT_SENT):
        return RemoteError("no connection", again=True)
    if isinstance(error, OSError) and error.errno is not None and error.errno in errno.errorcode:
        return RemoteError(f"cannot be read: {os.strerror(error.errno)}")
    return RemoteError(f"cannot be read ({type(error).__name__})")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what caused it, and so on."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _answer(error: BaseException) -> tuple[int, str]:
    """State of the answer that an error is about, and its code in S3: of aiohttp, botocore, gcsfs."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return int(status), str(response.get("Error", {}).get("Code", ""))
    for name in ("status", "code"):
        value = getattr(error, name, None)
        if isinstance(value, int | str) and str(value).isdigit() and 400 <= int(value) < 600:
            return int(value), ""
    return 0, ""


def _explain_answer(status: int, code: str) -> RemoteError:
    shown = f"{status}, {code}" if code and not code.isdigit() and status else str(status or code)
    if code.startswith(AGAIN_CODES) or status in AGAIN:
        return RemoteError(f"the server answered {shown}", again=True)
    if status in DENIED or code in DENIED_CODES:
        return RemoteError(f"access denied ({shown})", kind="denied")
    if status in MISSING:
        return RemoteError(f"not found ({shown})", kind="missing")
    return RemoteError(f"the server answered {shown}")


def _has(names: str, parts: tuple[str, ...]) -> bool:
    return any(part in names for part in parts)
