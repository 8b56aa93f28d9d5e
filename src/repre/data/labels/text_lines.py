"""Reads lists of names in text files: classes, images of a split."""

from pathlib import Path

from repre.errors import UserError
from repre.utils.os_errors import reason_of


def read_lines(file: Path) -> list[str]:
    """The lines of a file in UTF-8 that are not empty, without the space around them.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {file}: {reason_of(error)}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {file} as text in UTF-8: {error}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
