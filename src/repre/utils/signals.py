"""Ctrl-C, SIGTERM and SIGUSR1 ask the loop to save and leave; a second Ctrl-C leaves at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from repre.errors import RunError


class Interrupted(RunError):
    """The run was asked to stop and has saved itself; `code` is the process's exit code (128 + the signal's number)."""

    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message)
        self.code = code


class StopNow(BaseException):
    """Ends work that may be dropped half-way, so that a run saves within seconds; see `StopRequest.breaks`.

    No Exception: what catches those (decoders of damaged files) must let it pass.
    """


class StopRequest:
    """While entered, signals set `signal` instead of ending the process."""

    signal: int | None = None
    _breaks = False

    def __enter__(self) -> "StopRequest":
        self._before: dict[int, Any] = {}
        for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGUSR1", None)):
            if number is not None:
                try:
                    self._before[number] = signal.signal(number, self._note)
                except ValueError:  # not in the main thread: whoever owns that one handles signals
                    return self
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def breaks(self, wanted: bool = True) -> Iterator[None]:
        """While entered, a signal also raises `StopNow`: for a look that can be taken again, or waiting for data."""
        self._breaks = wanted
        try:
            if wanted and self.signal is not None:
                raise StopNow
            yield
        finally:
            self._breaks = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
        if self._breaks:
            self._breaks = False
            raise StopNow
