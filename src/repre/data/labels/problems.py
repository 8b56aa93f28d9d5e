"""What to do with a mistake in label files: stop at the first, or collect all of them for a report."""

from repre.errors import UserError

ACCEPT = "--accept-labels"
"""The option by which a user confirms a reading that looks like a mistake."""


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
            self.add(f"{message}. If the labels are right as they are read, confirm it with {ACCEPT}")
