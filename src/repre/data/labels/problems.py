"""What to do with a mistake in label files: stop at the first, or collect all of them for a report."""

from collections.abc import Sequence

from repre.errors import UserError

ACCEPT = "--accept-labels"
"""The option by which a user confirms a reading that looks like a mistake."""

MAX_NAMED = 20
"""Most bad images, or mistakes, that a message names."""


class Problems:
    """Mistakes in label files.

    Args:
        collect: whether `add` collects the messages; else it raises the first one.
        accept: whether labels are taken as they are read where that looks like a mistake.
    """

    def __init__(self, *, collect: bool = False, accept: bool = False) -> None:
        self.collect, self.accept = collect, accept
        self.messages: list[str] = []

    def add(self, message: str) -> None:
        """Records a mistake; the caller leaves out what is wrong and continues.

        Raises:
            UserError: nothing is collected.
        """
        if not self.collect:
            raise UserError(message)
        self.messages.append(message)

    def doubt(self, message: str) -> None:
        """Records a reading that is probably a mistake, unless the user accepts it; the message names it and the remedy.

        Raises:
            UserError: nothing is collected or accepted.
        """
        if not self.accept:
            self.add(f"{message}. If the labels are right, confirm them with {ACCEPT}")


def list_bad(reasons: Sequence[str], count: int, what: str) -> str:
    """The message about several bad images: how many of `count` there are, and the reasons of the first ones."""
    return listed(f"{len(reasons)} of {count} {what} cannot be used; repair or remove them", reasons)


def listed(heading: str, messages: Sequence[str]) -> str:
    """The only message, or the first ones below a heading."""
    if len(messages) == 1:
        return messages[0]
    more = [f"and {len(messages) - MAX_NAMED} more"] if len(messages) > MAX_NAMED else []
    return "\n  ".join([f"{heading}:", *messages[:MAX_NAMED], *more])
