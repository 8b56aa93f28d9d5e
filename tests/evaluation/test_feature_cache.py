"""The cache stays below its limit; the least recently used entry goes first, the newest never."""

import os
from pathlib import Path

import pytest

from repre.errors import UserError
from repre.evaluation.feature_cache import GIB, evict, mark_used
from repre.evaluation.options import RuntimeOptions


def entry(path: Path, *, size: int, age: int) -> Path:
    if path.suffix:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))
    else:
        path.mkdir(parents=True)
        (path / "level-0.f16").write_bytes(bytes(size))
    os.utime(path, (1_000_000 - age, 1_000_000 - age))
    return path


def test_the_least_recently_used_entries_go_first(tmp_path: Path) -> None:
    old = entry(tmp_path / "features" / "old.npy", size=100, age=30)
    maps = entry(tmp_path / "maps" / "m", size=300, age=20)
    young = entry(tmp_path / "features" / "young.npy", size=100, age=10)
    written = entry(tmp_path / "maps" / "n", size=100, age=0)
    assert evict(tmp_path, max_gib=600 / GIB, keep=written) == []
    assert evict(tmp_path, max_gib=450 / GIB, keep=written) == [old, maps]
    assert not maps.exists()
    assert young.exists()
    mark_used(young)
    assert evict(tmp_path, max_gib=0, keep=written) == [young]
    assert written.exists()


def test_entries_being_written_stay(tmp_path: Path) -> None:
    part = entry(tmp_path / "maps" / ".part", size=100, age=50)
    written = entry(tmp_path / "features" / "w.npy", size=1, age=0)
    assert evict(tmp_path, max_gib=0, keep=written) == []
    assert part.exists()


def test_a_negative_limit_is_refused() -> None:
    with pytest.raises(UserError, match="cache_gib"):
        RuntimeOptions(cache_gib=-1)
