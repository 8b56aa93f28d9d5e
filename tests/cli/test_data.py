"""`repre data check`, `repre data shard` and `repre data scenes`."""

from pathlib import Path

import pytest

from tests.cli.conftest import Repre


def test_check_counts_and_names_unreadable_files(repre: Repre, photos: Path, tmp_path: Path) -> None:
    code, out, _ = repre("data", "check", photos, "--workers", 0)
    assert code == 0
    assert "16 images, 0 unreadable" in out
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    code, out, _ = repre("data", "check", tmp_path, "--workers", 0)
    assert code == 1
    assert "1 unreadable" in out
    assert "bad.jpg" in out


def test_scenes_are_written_and_can_be_read(repre: Repre, tmp_path: Path) -> None:
    out = tmp_path / "scenes"
    code, printed, err = repre("data", "scenes", "--out", out, "--train", 6, "--val", 2, "--size", 32)
    assert code == 0, err
    assert f"written to {out}; use as csv:{out}/labels.csv, coco:{out}" in printed
    assert len(list((out / "train/images").iterdir())) == 6
    assert repre("data", "check", out / "val/images", "--workers", 0)[0] == 0


def test_shards_are_written_and_can_be_read(repre: Repre, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    code, printed, err = repre("data", "shard", photos, "--out", out, "--workers", 0)
    assert code == 0, err
    assert "16 images in 1 shards" in printed
    assert f"use: repre pretrain --data {out}" in printed
    assert "16 images, 0 unreadable" in repre("data", "check", out, "--workers", 0)[1]
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "bad.jpg").write_bytes(b"no image")
    (folder / "good.jpg").write_bytes((photos / "0.jpg").read_bytes())
    code, printed, _ = repre("data", "shard", folder, "--out", tmp_path / "small", "--size", 9, "--workers", 0)
    assert code == 1
    assert "1 images in 1 shards" in printed
    assert "bad.jpg: not an image" in printed


def test_help(repre: Repre) -> None:
    code, out, _ = repre("data", "--help")
    assert code == 0
    assert "repre data check" in out
    assert "repre data shard" in out
    assert "repre data scenes" in out
    assert repre("data")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("chek",), "did you mean 'check'"),
        (("check", "nowhere"), "nowhere"),
        (("check", "--labels"), "--labels checks one data set as a whole; name one"),
        (("check", "scenes:4:32", "--include", "*.jpg"), "leave out --include"),
        (("check", "scenes:4:32", "--workers", "-3"), "workers must not be negative, not -3"),
        (("check", "nowhere", "--channels", "0"), "channels must be at least 1, not 0"),
        (("shard", "nowhere", "--out", "new"), "nowhere"),
        (("shard", "scenes:4:32", "--out", "new", "--size", "0"), "size must be at least 1, not 0"),
        (("scenes",), "--out"),
        (("scenes", "--out", "new", "--train", "0"), "at least one scene"),
        (("scenes", "--out", "new", "--size", "8"), "too small"),
    ],
)
def test_mistakes(
    arguments: tuple[str, ...], message: str, repre: Repre, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = repre("data", *arguments)
    assert (code, out) == (2, "")
    assert message in err
