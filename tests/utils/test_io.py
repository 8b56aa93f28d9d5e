"""Files and folders are whole or absent, readable as the umask allows, and right where several processes write them."""

import errno
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
import torch

from repre.errors import RunError
from repre.utils import io
from repre.utils.io import keep_copy, new_folder, write_atomically, write_json


def in_other_process(work: Callable[[], object]) -> int:
    if (pid := os.fork()) == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def test_processes_that_write_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "shared"
    contents = [bytes([65 + number]) * 200_000 for number in range(4)]
    write_atomically(path, lambda file: file.write(contents[0]))

    def write_often(content: bytes) -> None:
        for _ in range(25):
            write_atomically(path, lambda file: file.writelines([content[:100_000], content[100_000:]]))

    pids = [in_other_process(lambda content=content: write_often(content)) for content in contents]  # type: ignore[misc]
    running = set(pids)
    while running:
        assert path.read_bytes() in contents
        running -= {pid for pid in running if os.waitpid(pid, os.WNOHANG)[0] == pid}
    assert [file.name for file in tmp_path.iterdir()] == ["shared"]


@pytest.mark.skipif(io.fcntl is None, reason="no locks on this system")
def test_a_writer_that_was_killed_keeps_nobody_out_and_one_that_hangs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "shared"
    ready, own = os.pipe()

    def hang(file: BinaryIO) -> None:
        file.write(b"half")
        file.flush()
        os.write(own, b"x")
        signal.pause()

    pid = in_other_process(lambda: write_atomically(path, hang))
    os.read(ready, 1)
    monkeypatch.setattr(io, "WRITER_SECONDS", 0.05)
    with pytest.raises(RunError, match=r"could not write .*shared: another process is writing it; what was saved"):
        write_atomically(path, lambda file: file.write(b"whole"))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    write_atomically(path, lambda file: file.write(b"whole"))
    assert path.read_bytes() == b"whole"
    assert [file.name for file in tmp_path.iterdir()] == ["shared"]


class FullDisk:
    """A file on a disk that takes so many bytes."""

    def __init__(self, size: int) -> None:
        self.left = size

    def write(self, content: bytes) -> int:
        self.left -= len(content)
        if self.left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return len(content)

    def flush(self) -> None:
        pass


@pytest.mark.parametrize("size", [0, 1000])
def test_a_full_disk_is_named_whatever_a_library_makes_of_it(tmp_path: Path, size: int) -> None:
    """torch.save writes the rest of its archive after the error, and reports that the archive is damaged."""
    with pytest.raises(
        RunError, match=r"could not write .*weights.pt: No space left on device; what was saved"
    ) as caught:
        write_atomically(tmp_path / "weights.pt", lambda file: torch.save(torch.ones(1000), FullDisk(size)))  # type: ignore[arg-type]
    assert "enforce fail" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_permissions_follow_the_umask(umask: int, tmp_path: Path) -> None:
    old = os.umask(umask)
    try:
        write_json(tmp_path / "file.json", {})
        keep_copy(tmp_path / "file.json", tmp_path / "copy.json")
        with new_folder(tmp_path / "folder") as folder:
            (folder / "inner").write_text("x")
    finally:
        os.umask(old)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file.json", "copy.json", "folder/inner")]
    assert modes == [0o666 & ~umask] * 3
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~umask


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_is_whole_or_as_it_was(exists: bool, error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "a" / "folder"
    if exists:
        path.mkdir(parents=True)
        (path / "old").write_text("old")

    def stopped() -> None:
        with new_folder(path) as folder:
            (folder / "new").write_text("half")
            assert not (path / "new").exists()
            raise error

    with pytest.raises(error):
        stopped()
    assert [p.name for p in path.parent.iterdir()] == (["folder"] if exists else [])
    with new_folder(path) as folder:
        (folder / "new").write_text("new")
    assert [p.name for p in path.iterdir()] == ["new"]
    assert [p.name for p in path.parent.iterdir()] == ["folder"]


def test_a_folder_left_by_a_killed_process_is_in_no_ones_way(tmp_path: Path) -> None:
    """Killed between the two renames, the old folder has another name; the next call ends with the new one."""
    for name in (".folder.partial", ".folder.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("half")
    with new_folder(tmp_path / "folder") as folder:
        (folder / "new").write_text("new")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_link_to_a_folder_stays_one(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    with new_folder(tmp_path / "link") as folder:
        (folder / "new").write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "new").read_text() == "new"


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    write_json(tmp_path / "file.json", 1)

    def fail(file: object) -> None:
        raise OSError("no space")

    with pytest.raises(RunError, match="what was saved before is intact"):
        write_atomically(tmp_path / "file.json", fail)
    assert (tmp_path / "file.json").read_text() == "1\n"
    assert len(list(tmp_path.iterdir())) == 1
