"""Errors with a message for the user: what went wrong, where, and how to fix it. Other exceptions keep their traceback."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """A mistake in the input: a setting, a path, a file. The command line prints the message and exits with `code`."""

    code = 2


class RunError(RuntimeError):
    """A run cannot continue: the loss is not finite, too many files are broken, the disk is full. Saved work is intact."""

    code = 1


def near_names(name: str, known: Iterable[str], *, count: int = 3) -> str:
    """Returns a clause such as ``; did you mean 'swin_tiny'?`` with the closest of `known`, or an empty string."""
    close = get_close_matches(name, list(known), n=count, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
