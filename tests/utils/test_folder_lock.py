"""Locks: a second process waits, says so, and is refused; what dead processes leave behind keeps nobody out."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from repre.errors import UserError
from repre.utils import folder_lock
from repre.utils.folder_lock import FolderLock, is_locked, writing

pytestmark = pytest.mark.skipif(folder_lock.fcntl is None, reason="no locks on this system")


@contextmanager
def other_process(hold: Callable[[], object]) -> Iterator[int]:
    """A process that has called `hold` and waits; killed in the end."""
    ready, own = os.pipe()
    if (pid := os.fork()) == 0:
        hold()
        os.write(own, b"x")
        time.sleep(100)
        os._exit(0)
    os.close(own)
    assert os.read(ready, 1) == b"x"
    os.close(ready)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_the_second_process_is_told_who_writes_and_is_let_in_when_that_one_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(folder_lock, "SILENT_SECONDS", 0.0)
    lock = FolderLock(tmp_path / ".lock")
    with other_process(FolderLock(lock.path).acquire) as pid:
        assert is_locked(lock.path)
        with pytest.raises(UserError, match=rf"another process \({pid}\) is writing to {tmp_path}; wait for it, or"):
            lock.acquire(patience=0.15)
        assert (
            f"another process ({pid}) is writing to {tmp_path}; waiting for it, at most 0 s" in capsys.readouterr().err
        )
    assert lock.path.exists()
    assert not is_locked(lock.path)
    assert lock.acquire(patience=0.0) is False
    lock.release()


def test_what_a_dead_process_left_keeps_nobody_out(tmp_path: Path) -> None:
    """Neither the number of a process that lives again, nor the name of another machine, nor an old time means anything."""
    out = tmp_path / "features.npz"
    left = tmp_path / ".features.npz.lock"
    left.write_text(f"{os.getppid()} another-host")
    os.utime(left, (0, 0))
    with writing(out, patience=0.0) as waited:
        assert not waited
        assert is_locked(left)
    assert not left.exists()


def test_one_waits_for_the_other_and_then_has_the_lock_alone(tmp_path: Path) -> None:
    """The first one removes the file of its lock, on which the second one waits."""
    out = tmp_path / "predictions"

    def hold() -> None:
        context = writing(out)
        context.__enter__()
        signal.signal(signal.SIGUSR1, lambda *_: context.__exit__(None, None, None))

    with other_process(hold) as pid:
        threading.Timer(0.2, os.kill, (pid, signal.SIGUSR1)).start()
        with writing(out, patience=30.0) as waited:
            assert waited
            assert is_locked(tmp_path / ".predictions.lock")


def test_threads_keep_each_other_out(tmp_path: Path) -> None:
    """The system's locks belong to a process, and closing the file of one releases all."""
    lock = FolderLock(tmp_path / ".lock")
    lock.acquire()
    with pytest.raises(UserError, match="another thread of this process is writing"):
        FolderLock(lock.path).acquire(patience=0.0)
    with other_process(lambda: None):
        pass
    assert is_locked(lock.path)
    lock.release(remove=True)
    assert not lock.path.exists()


def test_a_place_where_no_lock_can_be_made_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with writing(tmp_path / "file" / "out") as waited:
        assert not waited

    def no_locks(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(folder_lock.fcntl, "lockf", no_locks)
    with writing(tmp_path / "out") as waited:
        assert not waited
