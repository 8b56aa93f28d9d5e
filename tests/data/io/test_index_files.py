"""Arrays on the disk: equal when they are mapped, in this process or another, and nothing if the file is damaged."""

import pickle
from pathlib import Path

import numpy as np

from repre.data.io.index_files import MappedArray, read_index, write_index

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


def test_a_damaged_file_is_none(tmp_path: Path) -> None:
    path = tmp_path / "x.index"
    assert read_index(path) is None
    write_index(path, ARRAYS, {})
    whole = path.read_bytes()
    for damaged in (b"", b"{", b"[]\n", b"\xff\n", whole[:-1], whole + b"x", b"{}\n" + whole):
        path.write_bytes(damaged)
        assert read_index(path) is None
