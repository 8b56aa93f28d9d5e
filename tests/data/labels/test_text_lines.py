"""Lists of names in text files."""

from pathlib import Path

import pytest

from repre.data.labels.text_lines import read_lines
from repre.errors import UserError


def test_lines_and_what_cannot_be_read(tmp_path: Path) -> None:
    file = tmp_path / "classes.txt"
    file.write_bytes("\ufeffzebra \r\n\n élan\n".encode())
    assert read_lines(file) == ["zebra", "élan"]
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"cannot read .*classes\.txt as text in UTF-8"):
        read_lines(file)
    with pytest.raises(UserError, match=r"cannot read .*none\.txt: No such file"):
        read_lines(tmp_path / "none.txt")
