"""Errors that a person reads: what went wrong, where, and the fix. Everything else stays a loud traceback."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """A mistake in the input (a setting, a path, a file). The command line prints the message and exits with code 2."""


class RunError(RuntimeError):
    """A run that cannot go on (loss not finite, too many broken files, disk full). Exit code 1; saved work is kept."""


def near_names(name: str, known: Iterable[str], *, count: int = 3) -> str:
    """A clause such as ``; did you mean 'swin_tiny'?`` with the closest of `known`, or an empty string."""
    close = get_close_matches(name, list(known), n=count, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
