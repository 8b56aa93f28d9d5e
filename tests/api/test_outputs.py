"""Where functions may write: missing folders are made, apart from one in the root folder."""

from pathlib import Path

import pytest

from repre.api.arguments import as_output
from repre.errors import UserError


@pytest.mark.parametrize("path", ["o", "a/b/o.png", "/tmp/no/such/o", "/no-such-folder", Path("o")])
def test_paths_that_are_accepted(path: str | Path) -> None:
    assert as_output(path) == Path(path)


def test_the_working_folder_gets_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert as_output(".") == as_output("") == tmp_path


@pytest.mark.parametrize(
    ("path", "words"),
    [("/no-such-folder/o.png", "mkdir /no-such-folder"), ("a\0b", "UTF-8"), ("caf\udce9", "UTF-8")],
)
def test_paths_that_are_refused(path: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        as_output(path)
