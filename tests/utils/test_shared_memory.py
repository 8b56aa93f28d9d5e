"""Memory that is shared with workers: by fork, without /dev/shm; and what their semaphores need of it."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from repre.errors import UserError
from repre.utils.shared_memory import check_semaphores, shared_bytes

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /dev/shm")


def test_a_child_writes_what_its_parent_reads() -> None:
    memory = shared_bytes(10_000)
    assert not memory.any()
    child = multiprocessing.get_context("fork").Process(target=memory.fill_, args=(7,))
    child.start()
    child.join()
    assert (memory == 7).all()


@linux
def test_too_little_room_for_semaphores_is_refused_with_a_way_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=16, f_frsize=4096))
    with pytest.raises(
        UserError, match=r"16 workers need 384 KiB in /dev/shm, which has 64 KiB left.*--runtime.workers 0"
    ):
        check_semaphores(16)
    check_semaphores(0)
    monkeypatch.undo()
    with pytest.raises(UserError, match="No such file"):
        check_semaphores(1, folder="/nowhere")


TRAIN = """
from dataclasses import replace
from pathlib import Path
from repre.config import RunConfig
from repre.training.loop import train
from tests.training.toy import toy
config = toy(Path({out!r}), epochs=1)
train(replace(config, runtime=replace(config.runtime, workers={workers}, monitors=False)))
"""


def train_with_shm(size: str, out: Path, workers: int) -> "subprocess.CompletedProcess[str]":
    """A training where /dev/shm has this size."""
    root = Path(__file__).parents[2]
    mount = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec {sys.executable} -c "$PROGRAM"'
    environment = os.environ | {"PROGRAM": TRAIN.format(out=str(out), workers=workers)}
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", mount],
        capture_output=True,
        text=True,
        cwd=root,
        timeout=300,
        check=False,
        env=environment,
    )


@linux
@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may mount")
def test_a_training_needs_next_to_nothing_of_dev_shm(tmp_path: Path) -> None:
    done = train_with_shm("128k", tmp_path / "small", workers=2)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip("this container may not mount")
    assert done.returncode == 0, done.stderr
    refused = train_with_shm("16k", tmp_path / "smaller", workers=2)
    assert "UserError: 2 workers need 104 KiB in /dev/shm" in refused.stderr
