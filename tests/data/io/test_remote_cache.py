"""The cache of fetched files: bounded, shared by processes, and never wrong."""

import multiprocessing
import os
import shutil
import time
from collections import namedtuple
from pathlib import Path

import pytest

from repre.data.io import remote_cache
from repre.data.io.remote_cache import RemoteCache

KIB = 1024 / 2**30


def taken(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*/*"))


def content_of(number: int) -> bytes:
    return number.to_bytes(4, "little") * 200


def test_what_is_kept_is_found_by_its_key(tmp_path: Path) -> None:
    cache = RemoteCache(100 * KIB, tmp_path)
    assert cache.get("a", (1, 2)) is None
    cache.put(b"content", "a", (1, 2))
    cache.put(b"", "b\udcff", (1, 2))
    assert RemoteCache(100 * KIB, tmp_path).get("a", (1, 2)) == b"content"
    assert cache.get("b\udcff", (1, 2)) == b""
    assert cache.get("a", (1, 3)) is None
    assert (tmp_path.stat().st_mode | next(tmp_path.glob("*/")).stat().st_mode) & 0o077 == 0 or os.name != "posix"


def test_the_least_recently_used_entries_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_cache, "USED_SECONDS", 100.0)
    cache = RemoteCache(20 * KIB, tmp_path)
    for number in range(20):
        cache.put(content_of(number), number)
        os.utime(cache._path((number,)), (time.time() - 5000 + number,) * 2)
    assert cache.get(0) == content_of(0)  # used now
    for number in range(20, 30):
        cache.put(content_of(number), number)
        assert taken(tmp_path) <= 20 * 1024
    assert cache.get(0) == content_of(0)
    assert cache.get(1) is None
    assert [number for number in range(30) if cache.get(number)][-10:] == [*range(20, 30)]


def test_damaged_and_cut_entries_are_not_used(tmp_path: Path) -> None:
    cache = RemoteCache(100 * KIB, tmp_path)
    for damage in (
        lambda x: x[:-1],
        lambda x: x[:-1] + b"!",
        lambda x: b"",
        lambda x: x + b"!",
        lambda x: b"?" + x[1:],
    ):
        cache.put(b"content", "a")
        path = cache._path(("a",))
        path.write_bytes(damage(path.read_bytes()))
        assert cache.get("a") is None
        assert not path.exists()


def test_what_killed_processes_left_is_removed_and_counted(tmp_path: Path) -> None:
    cache = RemoteCache(20 * KIB, tmp_path)
    cache.put(b"content", "a")
    left = tmp_path / "ab" / ".left.1"
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(bytes(15000))
    os.utime(left, (1e9, 1e9))
    (tmp_path / "lock").write_bytes(b"cut")
    cache.put(content_of(1), 1)
    assert not left.exists()
    assert cache.get(1) == content_of(1)
    assert int.from_bytes((tmp_path / "lock").read_bytes(), "little") == taken(tmp_path)


def test_nothing_is_kept_where_there_is_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    off = RemoteCache(0, tmp_path / "off")
    off.put(b"content", "a")
    assert off.get("a") is None
    large = RemoteCache(1 * KIB, tmp_path / "large")
    large.put(bytes(1000), "a")
    assert large.get("a") is None
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage(2**40, 2**40 - 2**20, 2**20))
        full = RemoteCache(1, tmp_path / "full")
        full.put(b"content", "a")
        assert full.get("a") is None

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    broken = RemoteCache(1, tmp_path / "broken")
    broken.put(b"first", "first")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        broken.put(b"content", "a")
    broken.put(b"content", "b")  # a full disk is not tried again
    assert [broken.get(key) for key in ("first", "a", "b")] == [b"first", None, None]
    assert not [*(tmp_path / "broken").glob("*/.*")]
    (tmp_path / "file").write_bytes(b"")
    nowhere = RemoteCache(1, tmp_path / "file")
    nowhere.put(b"content", "a")
    assert nowhere.get("a") is None


def _work(folder: Path, seed: int) -> None:
    cache = RemoteCache(50 * KIB, folder)
    for step in range(150):
        number = (step * 7 + seed * 13) % 100
        found = cache.get(number)
        assert found in (None, content_of(number))
        if found is None:
            cache.put(content_of(number), number)


def test_many_processes_share_it(tmp_path: Path) -> None:
    workers = [multiprocessing.get_context("fork").Process(target=_work, args=(tmp_path, seed)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert (
        20 * 1024 < taken(tmp_path) <= 54 * 1024
    )  # one entry of each process may be in the making while others are removed
    found = [RemoteCache(1, tmp_path).get(number) for number in range(100)]
    assert all(content in (None, content_of(number)) for number, content in enumerate(found))


@pytest.mark.skipif(remote_cache.fcntl is None, reason="no locks on this system")
def test_a_process_that_hangs_in_the_cache_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_cache, "LOCK_SECONDS", 0.05)
    cache = RemoteCache(folder=tmp_path)
    cache.put(b"one", "a")
    with open(tmp_path / "lock", "ab") as lock:
        remote_cache.fcntl.flock(lock, remote_cache.fcntl.LOCK_EX)
        cache.put(b"two", "b")
    assert cache.get("a") == b"one"
    assert cache.get("b") is None
