"""What to do with a mistake in label files: stop at the first, or collect all of them for a report."""

from repre.errors import UserError


class Problems:
    """Mistakes in label files.

    Args:
        collect: whether `add` collects the messages; else it raises the first one.
    """

    def __init__(self, *, collect: bool = False) -> None:
        self.collect = collect
        self.messages: list[str] = []

    def add(self, message: str) -> None:
        """Records a mistake; the caller leaves out what is wrong and continues.

        Raises:
            UserError: nothing is collected.
        """
        if not self.collect:
            raise UserError(message)
        self.messages.append(message)
