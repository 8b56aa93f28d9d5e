"""Ctrl-C, SIGTERM and SIGUSR1 ask a run to save and exit; a second Ctrl-C exits at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from repre.errors import RunError


class Interrupted(RunError):
    """A signal stopped the run, which has saved its state; `code` is the exit code (128 plus the signal's number)."""

    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message, kind="signal")
        self.code = code


class StopNow(BaseException):
    """Ends work that may be abandoned, so that a run saves within seconds; see `StopRequest.interruptible`.

    It is no `Exception`, because code that catches those (decoders of damaged files) must let it pass.
    """


class StopRequest:
    """A context in which signals set `signal` instead of ending the process.

    Attributes:
        signal: number of the newest signal; None before the first.
    """

    signal: int | None = None
    _interruptible = False

    def __enter__(self) -> "StopRequest":
        self._previous_handlers: dict[int, Any] = {}
        for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGUSR1", None)):
            if number is not None:
                try:
                    self._previous_handlers[number] = signal.signal(number, self._handle)
                except ValueError:  # only the main thread may set handlers, so signals are its owner's business
                    return self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    @contextmanager
    def interruptible(self, enabled: bool = True) -> Iterator[None]:
        """A context in which a signal also raises `StopNow`: for work that can be repeated, or waiting for data."""
        self._interruptible = enabled
        try:
            if enabled and self.signal is not None:
                raise StopNow
            yield
        finally:
            self._interruptible = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
        if self._interruptible:
            self._interruptible = False
            raise StopNow


@contextmanager
def signals_later() -> Iterator[None]:
    """Inside, a request to stop waits: its exception would be lost in what Python calls after a fork."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
