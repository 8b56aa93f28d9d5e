"""Faults of the storage are waited for; faults of a file are not."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from repre.data.io import storage_faults
from repre.data.io.decode import UnreadableImage, read_image
from repre.data.io.sources import open_source
from repre.data.io.storage_faults import read_patiently
from repre.data.loading.workers import load_tracked
from repre.errors import RunError
from tests.data.files import picture


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_faults, "FIRST_DELAY", 0.001)


class Failing:
    """Fails so many times with one error of the system, then gives 7."""

    def __init__(self, number: int, times: int) -> None:
        self.number, self.times, self.calls = number, times, 0

    def __call__(self, *_: object, **__: object) -> int:
        self.calls += 1
        if self.calls <= self.times:
            raise OSError(self.number, os.strerror(self.number))
        return 7


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE, errno.ETIMEDOUT])
def test_a_fault_that_passes(number: int) -> None:
    read = Failing(number, times=3)
    assert read_patiently(read, name=str) == 7
    assert read.calls == 4


def test_a_fault_that_stays_ends_in_words() -> None:
    with pytest.raises(
        RunError, match=r"x.png: Stale file handle.*The file is fine: .* Then run the same command"
    ) as caught:
        read_patiently(Failing(errno.ESTALE, times=1000), name=lambda: "x.png", seconds=0.02)
    assert caught.value.kind == "disk"


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "no"), UnreadableImage("damaged")])
def test_other_errors_are_not_tried_again(error: Exception) -> None:
    calls = []

    def read() -> None:
        calls.append(1)
        raise error

    with pytest.raises(type(error)):
        read_patiently(read, name=str)
    assert len(calls) == 1


def test_a_long_fault_is_said_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(storage_faults, "QUIET", 0.0)
    read_patiently(Failing(errno.EIO, times=5), name=lambda: "x.png")
    assert capsys.readouterr().err == "x.png: Input/output error; retrying for up to 300 s\n"


def test_an_error_while_a_file_is_decoded_is_no_damage(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")

    class Stale:
        """A file whose disk goes away after its first bytes."""

        def __init__(self) -> None:
            self.file, self.reads = open(path, "rb"), 0  # noqa: SIM115 - the test ends with it
            self.seek, self.tell = self.file.seek, self.file.tell

        def read(self, size: int = -1) -> bytes:
            self.reads += 1
            if self.reads > 2:
                raise OSError(errno.EIO, "Input/output error")
            return self.file.read(size)

    with pytest.raises(OSError, match="Input/output error"):
        read_image(Stale())  # type: ignore[arg-type]


def _folder(root: Path) -> str:
    for number in range(5):
        picture(root / f"{number}.png", value=20 * number)
    return str(root)


def test_one_file_that_is_missing_has_vanished(tmp_path: Path) -> None:
    source = open_source(_folder(tmp_path / "photos"))
    (tmp_path / "photos/2.png").unlink()
    with pytest.raises(UnreadableImage, match="vanished"):
        load_tracked(source, 2)


@pytest.mark.parametrize("how", ["renamed", "emptied"])
def test_a_folder_that_is_away_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    folder, aside = tmp_path / "photos", tmp_path / "aside"
    source = open_source(_folder(folder))
    expected = source.load(2)
    folder.rename(aside)
    if how == "emptied":  # as a mount point without its disk
        folder.mkdir()

    def come_back(_: float) -> None:
        if aside.exists():
            if folder.exists():
                folder.rmdir()
            aside.rename(folder)

    monkeypatch.setattr("time.sleep", come_back)
    assert np.array_equal(load_tracked(source, 2), expected)


def test_too_many_open_files_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(_folder(tmp_path / "photos"))
    expected, real = source.load(1), os.open
    failing: Callable[..., int] = Failing(errno.EMFILE, times=2)
    calls = iter([failing, failing, real])
    monkeypatch.setattr(os, "open", lambda *args: next(calls, real)(*args))
    assert np.array_equal(load_tracked(source, 1), expected)
