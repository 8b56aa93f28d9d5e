"""Files that several processes write at once, or that do not fit on the disk."""

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
import torch

from repre.errors import RunError
from repre.utils import io
from repre.utils.io import write_atomically


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
