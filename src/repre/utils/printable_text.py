"""File names in messages and lists: control characters become escapes, so that a name stays on its line and cannot steer a
terminal."""

import re
import sys

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Control characters, and those that end a line or change the direction of text."""


def printable(text: object) -> str:
    """A name with escapes such as ``\\n`` in place of control characters; other characters stay as they are."""
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def printable_lines(text: str) -> str:
    """Lines with escapes in place of control characters within them."""
    return "\n".join(map(printable, text.split("\n")))


def say(*lines: str, error: bool = False) -> None:
    """Prints lines for the user; a line break within one of them becomes an escape.

    Args:
        error: to standard error.
    """
    print("\n".join(map(printable, lines)), file=sys.stderr if error else None, flush=True)
