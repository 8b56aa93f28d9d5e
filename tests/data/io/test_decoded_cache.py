"""The cache of decoded images: equal to decoding, whole or unused, and never the end of a run."""

import errno
import multiprocessing
import os
import pickle
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repre.data.io.decoded_cache import DecodedCache
from repre.data.io.frame_notes import note_several_frames, noting_frames

STAMP = (1000, 5)


def image(number: int, dtype: Any = np.uint8) -> np.ndarray:
    random = np.random.default_rng(number)
    return (random.random((3 + number % 5, 7, 3)) * (250 if dtype != np.float32 else 1)).astype(dtype)


def cache(folder: Path, **changes: Any) -> DecodedCache:
    settings: dict[str, Any] = {"record_bytes": 4096, "most_bytes": 2**30, "reserve": 0} | changes
    return DecodedCache(folder, **settings)


def refuse() -> np.ndarray:
    raise AssertionError("it is in the cache")


def fill(kept: DecodedCache, numbers: range = range(10)) -> None:
    for number in numbers:
        kept.load(number, STAMP, lambda number=number: image(number))  # type: ignore[misc]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_images_are_decoded_once_and_stay_bit_equal(tmp_path: Path, dtype: Any) -> None:
    kept = cache(tmp_path)
    for number in (3, 0, 7):
        kept.load(number, STAMP, lambda number=number: image(number, dtype))  # type: ignore[misc]
    for reader in (kept, cache(tmp_path), pickle.loads(pickle.dumps(kept))):
        for number in (0, 3, 7):
            found = reader.load(number, STAMP, refuse)
            assert found.dtype == dtype
            assert np.array_equal(found, image(number, dtype))
    assert np.array_equal(kept.load(1, STAMP, lambda: image(9)), image(9)), "others are decoded"


def test_a_changed_file_is_decoded_anew(tmp_path: Path) -> None:
    kept = cache(tmp_path)
    fill(kept)
    assert np.array_equal(kept.load(2, (1000, 6), lambda: image(4)), image(4))
    assert np.array_equal(kept.load(2, (1000, 6), refuse), image(4))


def test_the_cache_remembers_which_files_have_several_frames(tmp_path: Path) -> None:
    def decode(number: int) -> np.ndarray:
        if number % 2:
            note_several_frames()
        return image(number)

    kept = cache(tmp_path)
    for _ in range(2):  # decoded, and from the cache
        for number in range(4):
            with noting_frames() as note:
                kept.load(number, STAMP, lambda number=number: decode(number))  # type: ignore[misc]
            assert note.several is (number % 2 == 1)


def test_what_cannot_be_decoded_is_not_kept(tmp_path: Path) -> None:
    kept = cache(tmp_path)
    for _ in range(2):
        with pytest.raises(ValueError, match="damaged"):
            kept.load(0, STAMP, lambda: (_ for _ in ()).throw(ValueError("damaged")))
    assert np.array_equal(kept.load(0, STAMP, lambda: image(0)), image(0))


@pytest.mark.parametrize("name", ["index", "images"])
def test_no_damaged_byte_is_ever_shown(tmp_path: Path, name: str) -> None:
    """Zeros stand for pages that a power loss left unwritten, a cut file for a killed writer."""
    kept = cache(tmp_path)
    fill(kept, range(1))
    path = tmp_path / name
    whole = path.read_bytes()
    used = image(0).nbytes if name == "images" else 44
    for content in (
        *(whole[:i] + bytes([whole[i] ^ 255]) + whole[i + 1 :] for i in range(0, used, 5)),
        bytes(len(whole)),
        whole[: used // 2],
        b"",
    ):
        path.write_bytes(content)
        decoded = []
        found = cache(tmp_path).load(0, STAMP, lambda: (decoded.append(1), image(0))[1])  # noqa: B023
        assert decoded, "the damage was not seen"
        assert np.array_equal(found, image(0))
        assert np.array_equal(cache(tmp_path).load(0, STAMP, refuse), image(0)), "it is written anew"


def _write_until_killed(folder: Path) -> None:
    while True:
        kept = cache(folder)
        for number in range(40):
            kept._write(number, STAMP, image(number), several=False)


def test_processes_that_are_killed_while_they_write_leave_nothing_wrong(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    kept = cache(tmp_path)
    for _ in range(8):
        writers = [fork.Process(target=_write_until_killed, args=(tmp_path,)) for _ in range(2)]
        for writer in writers:
            writer.start()
        until = time.monotonic() + 0.05
        while time.monotonic() < until:
            for number in range(40):
                found = kept._read(number, STAMP)
                assert found is None or np.array_equal(found[0], image(number))
        for writer in writers:
            os.kill(writer.pid or 0, signal.SIGKILL)
            writer.join()
    fill(kept, range(40))
    for number in range(40):
        assert np.array_equal(kept.load(number, STAMP, refuse), image(number))


def test_a_full_disk_stops_writing_with_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = cache(tmp_path)
    fill(kept, range(3))
    pwrite = os.pwrite

    def no_space(descriptor: int, content: memoryview, offset: int) -> int:
        pwrite(descriptor, content[: len(content) // 2], offset)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", no_space)
    assert kept.notice() is None
    assert np.array_equal(kept.load(5, STAMP, lambda: image(5)), image(5)), "the run goes on"
    assert "No space left on device" in (kept.notice() or "")
    assert kept.notice() is None
    monkeypatch.setattr(os, "pwrite", pwrite)
    kept.load(6, STAMP, lambda: image(6))
    assert kept._read(6, STAMP) is None, "it stopped"
    assert kept._read(5, STAMP) is None, "a half-written image is not there"
    assert np.array_equal(kept.load(1, STAMP, refuse), image(1)), "what was kept is read"


@pytest.mark.parametrize(("limit", "words"), [({"most_bytes": 9000}, "cache-gib"), ({"reserve": 2**60}, "almost full")])
def test_budget_and_free_space_are_respected(tmp_path: Path, limit: dict[str, int], words: str) -> None:
    kept = cache(tmp_path, **limit)
    fill(kept)
    assert kept.size <= 12288
    assert words in (kept.notice() or "")


def test_a_worker_tells_all_others_to_stop(tmp_path: Path) -> None:
    kept = cache(tmp_path, most_bytes=0)
    worker = multiprocessing.get_context("fork").Process(target=fill, args=(kept,))
    worker.start()
    worker.join()
    assert "cache-gib" in (kept.notice() or "")


def test_larger_and_other_images_are_not_kept(tmp_path: Path) -> None:
    kept = cache(tmp_path)
    for odd in (np.zeros((100, 100, 3), np.uint8), np.zeros((2, 2, 3), np.int64)):
        for _ in range(2):
            decoded = []
            kept.load(0, STAMP, lambda: (decoded.append(1), odd)[1])  # noqa: B023
            assert decoded
    assert kept.notice() is None


def test_threads_share_a_cache(tmp_path: Path) -> None:
    kept = cache(tmp_path)
    threads = [threading.Thread(target=fill, args=(kept,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fill(kept)
    for number in range(10):
        assert np.array_equal(kept.load(number, STAMP, refuse), image(number))
