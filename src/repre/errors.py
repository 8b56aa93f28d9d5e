"""Errors with a message for the user: what went wrong, where, and how to fix it. Other exceptions keep their traceback."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Literal


class UserError(ValueError):
    """A mistake in the input: a setting, a path, a file. The command line prints the message and exits with `code`."""

    code = 2


class BadImage(UserError):
    """An image that cannot be read, or a label of one image that is wrong."""


FailureKind = Literal["diverged", "memory", "data", "disk", "signal", "worker", "device", "lost", "other"]
"""Why a run ended early. lost: another process of the run failed, whose message gives the reason."""


class RunError(RuntimeError):
    """A run cannot continue: the loss is not finite, too many files are broken, the disk is full. Saved work is intact.

    Args:
        message: what happened, where, and how to continue.
        kind: what the report says about a run that ends like this.
        options: options with which the run resumes, if the same command would fail again.
        step: the step that failed, counted from 1; None: the one after the last that was done.
    """

    code = 1

    def __init__(
        self, message: str = "", *, kind: FailureKind = "other", options: Sequence[str] = (), step: int | None = None
    ) -> None:
        super().__init__(message)
        self.kind, self.options, self.step = kind, tuple(options), step


def near_names(name: str, known: Iterable[str], *, count: int = 3) -> str:
    """Returns a clause such as ``; did you mean 'swin_tiny'?`` with the closest of `known`, or an empty string."""
    close = get_close_matches(name, list(known), n=count, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else ""


def counted(number: int, noun: str) -> str:
    """Returns a number with its noun, such as ``1 epoch``, ``2 epochs`` or ``3 processes``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{'es' if noun.endswith('s') else 's'}"


def named(names: Iterable[str], *, most: int = 8) -> str:
    """Names in a sentence: the first ones, and how many there are beyond them."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
