"""Parts survive an interruption and join to one file."""

import json
from pathlib import Path

import numpy as np
import pytest

from repre.errors import UserError
from repre.exporters.feature_files import FeatureParts, check_format, join_parts


@pytest.fixture
def parts(tmp_path: Path) -> FeatureParts:
    """Three parts; the second has no readable image, and one name is not UTF-8."""
    parts = FeatureParts(tmp_path / "f.parts", count=3)
    parts.open("key")
    parts.write(0, {"features": np.arange(6, dtype=np.float32).reshape(2, 3)}, {"names": ["a.png", "\udcff.png"]})
    parts.write(1, {}, {"names": [], "failures": ["c.png\tnot an image"]})
    parts.write(2, {"features": np.full((1, 3), 9, np.float32)}, {"names": ["d.png"]})
    return parts


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_parts_are_joined_in_order(parts: FeatureParts, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"f.{suffix}"
    assert join_parts(parts, out) == 3
    if suffix == "npz":
        with np.load(out, allow_pickle=False) as archive:
            paths, features = archive["paths"].tolist(), archive["features"]
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        table = parquet.read_table(out)
        assert json.loads(table.schema.metadata[b"shapes"]) == {"features": [3]}
        paths, features = table["path"].to_pylist(), np.array(table["features"].to_pylist())
    not_utf8 = b"\xff.png".decode(
        "utf-8", "surrogateescape" if suffix == "npz" else "replace"
    )  # Arrow takes UTF-8 alone
    assert paths == ["a.png", not_utf8, "d.png"]
    assert features.tolist() == [[0, 1, 2], [3, 4, 5], [9, 9, 9]]
    assert out.with_name(f"{out.name}.unreadable.txt").read_text() == "c.png\tnot an image\n"


def test_only_parts_of_the_same_key_are_kept(parts: FeatureParts) -> None:
    again = FeatureParts(parts.folder, count=3)
    again.open("key")
    assert [again.is_finished(number) for number in range(3)] == [True, True, True]
    again.open("another key")
    assert [again.is_finished(number) for number in range(3)] == [False, False, False]


def test_a_part_without_its_last_file_is_not_finished(parts: FeatureParts) -> None:
    (parts.folder / "000002.json").unlink()
    assert [parts.is_finished(number) for number in range(3)] == [True, True, False]


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    parts = FeatureParts(tmp_path / "f.parts", count=1)
    parts.open("key")
    parts.write(0, {}, {"names": [], "failures": ["c.png\tnot an image"]})
    with pytest.raises(UserError, match=r"none of 1 images can be read; the first: c\.png"):
        join_parts(parts, tmp_path / "f.npz")


def test_unknown_formats_and_folders_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has to end with"):
        check_format(Path("f.csv"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        FeatureParts(tmp_path / "file" / "f.parts", count=1).open("key")
