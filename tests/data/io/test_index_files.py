"""Arrays on the disk: equal when they are mapped, in this process or another, and nothing if the file is damaged."""

import multiprocessing
import pickle
import time
from pathlib import Path

import numpy as np
import pytest

from repre.data.io import index_files
from repre.data.io.index_files import MappedArray, one_at_a_time, read_index, write_index

ARRAYS = {"a": np.arange(10_000, dtype=np.int64), "none": np.empty(0, np.uint8), "b": np.arange(7, dtype=np.uint8)}


def test_arrays_come_back_mapped(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.index"
    write_index(path, ARRAYS, {"of": "\udcff"})
    content = read_index(path)
    assert content is not None
    arrays, meta = content
    assert meta == {"of": "\udcff"}
    assert isinstance(arrays["a"], MappedArray)
    assert all(np.array_equal(arrays[name], array) for name, array in ARRAYS.items())
    sent = pickle.dumps(arrays)
    assert len(sent) < 2000, "the path is sent, not the content"
    assert all(np.array_equal(pickle.loads(sent)[name], array) for name, array in ARRAYS.items())
    part = pickle.loads(pickle.dumps(arrays["a"][5:9]))
    assert part.tolist() == [5, 6, 7, 8]


def test_one_process_makes_an_index_and_others_wait(tmp_path: Path) -> None:
    path, order = tmp_path / "new" / "x.index", multiprocessing.get_context("fork").SimpleQueue()

    def make(name: str) -> None:
        with one_at_a_time(path):
            order.put(f"{name} begins")
            time.sleep(0.2)
            order.put(f"{name} ends")

    processes = [multiprocessing.get_context("fork").Process(target=make, args=(name,)) for name in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    events = [order.get() for _ in range(4)]
    assert [event[2:] for event in events] == ["begins", "ends"] * 2
    assert events[0][0] == events[1][0]


def test_a_process_that_never_ends_its_index_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(index_files, "SILENT_SECONDS", 0.0)
    monkeypatch.setattr(index_files, "LONGEST_WAIT", 0.2)
    with one_at_a_time(tmp_path / "x.index"), one_at_a_time(tmp_path / "x.index"):
        assert "another process is indexing the same files; waiting for it" in capsys.readouterr().err


def test_a_damaged_file_is_none(tmp_path: Path) -> None:
    path = tmp_path / "x.index"
    assert read_index(path) is None
    write_index(path, ARRAYS, {})
    whole = path.read_bytes()
    for damaged in (b"", b"{", b"[]\n", b"\xff\n", whole[:-1], whole + b"x", b"{}\n" + whole):
        path.write_bytes(damaged)
        assert read_index(path) is None
