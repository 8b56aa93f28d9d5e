"""Standard output and error that never end a command: readers that leave, characters that they lack, closed descriptors."""

import codecs
import errno
import io
import os
import sys
from types import TracebackType
from typing import Any

BROKEN_PIPE = 141
"""Exit code of a command whose reader left, as of one that SIGPIPE ends: 128 plus its number."""
PLAIN = {"–": "-", "±": "+-", "×": "x", "→": "->", "…": "...", "²": "2", "’": "'", "\N{THIN SPACE}": " "}
"""What replaces our own characters on a terminal that lacks them."""


class SafeStreams:
    """A context in which what cannot be printed is lost without an error, and the command does its work to the end.

    `repre ... | head` thus leaves no traceback, and a training goes on. Characters that the terminal lacks, and file names
    that are not valid in its encoding, are printed as escapes such as ``\\xe9``. Descriptors 0 to 2 that were closed
    (``>&-``) lead to the null device, or else the next file that opens would receive what is printed.

    At its end the context turns exit code 0 into `BROKEN_PIPE` if a reader left, and into 1 if output was lost otherwise.
    """

    def __enter__(self) -> "SafeStreams":
        self._descriptors: list[_Descriptor] = []
        _open_closed_descriptors()
        codecs.register_error("repre", _in_plain_characters)
        self._before = sys.stdout, sys.stderr
        sys.stdout = self._safe(sys.stdout, 1)
        sys.stderr = self._safe(sys.stderr, 2)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.flush()
        if isinstance(error, SystemExit) and not error.code and (code := self.exit_code(0)):
            error.code = code

    def flush(self) -> None:
        """Writes out what waits in buffers."""
        for stream in (sys.stdout, sys.stderr):
            stream.flush()

    def exit_code(self, code: int) -> int:
        """The exit code of a command that ended with `code`."""
        self.flush()
        lost = next((one.error for one in self._descriptors if one.error is not None), None)
        if code or lost is None:
            return code
        if lost.errno == errno.EPIPE:
            return BROKEN_PIPE
        print(f"repre: the output could not be written: {lost.strerror}", file=sys.stderr, flush=True)
        return 1

    def _safe(self, stream: Any, descriptor: int) -> Any:
        if stream is not None and getattr(stream, "buffer", None) is None:
            return stream  # not one of Python's own
        if stream is not None:
            stream.flush()
        encoding = getattr(stream, "encoding", None) or "utf-8"
        raw = _Descriptor(descriptor)
        self._descriptors.append(raw)
        return io.TextIOWrapper(
            io.BufferedWriter(raw), encoding=encoding, errors="repre", line_buffering=descriptor == 2 or raw.isatty()
        )


class _Descriptor(io.FileIO):
    """A descriptor that takes everything; what cannot be written is lost.

    Attributes:
        error: the first error of a write; afterwards nothing more is written.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                return super().write(data)
            except BlockingIOError:
                raise
            except OSError as error:
                self.error = error
        return memoryview(data).nbytes


def _open_closed_descriptors() -> None:
    """Lets descriptors 0 to 2 lead to the null device where they were closed."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest that is free, so this one
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)


def _in_plain_characters(error: UnicodeError) -> tuple[str, int]:
    """What an encoding lacks, as plain characters or escapes."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    return "".join(PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in text), error.end
