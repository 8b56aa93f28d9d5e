"""Check data, write shards and write scenes from Python."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import repre
from repre.data.scenes import Scenes, ScenesConfig


def test_findings_of_a_folder(photos: Path) -> None:
    findings = repre.check_data(photos, workers=0)
    assert findings.count == 16
    assert findings.sizes == {(40, 48): 16}
    assert not findings.unreadable
    with pytest.raises(repre.UserError, match="nowhere"):
        repre.check_data("nowhere")


def test_labels_of_masks_with_their_options(tmp_path: Path) -> None:
    for name, values in (
        ("images/a", np.zeros((8, 8, 3), np.uint8)),
        ("masks/a", np.eye(8, dtype=np.uint8) * 3 + np.arange(8, dtype=np.uint8) % 2 + 1),
    ):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    data = f"pairs:{tmp_path}/images,{tmp_path}/masks"
    (report,) = repre.check_labels(data, workers=0, ignore_label=[0, "4"])
    assert report.title == "train: masks of 1 images"
    assert not report.problems
    assert "ignored: 6.25% of the pixels" in report.facts
    with pytest.raises(repre.UserError, match="masks: ignore: no such setting"):
        repre.check_labels(data, ignore=[3])


def test_scenes_are_written_with_their_settings(tmp_path: Path) -> None:
    out = repre.write_scenes(tmp_path / "scenes", train=3, val=1, size=32, seed=5)
    assert out == tmp_path / "scenes"
    first = np.asarray(Image.open(out / "train/images/000000.png"))
    config = ScenesConfig(size=32, seed=5)
    assert np.array_equal(first, Scenes(3, config=config, split="train").load(0))
    repre.write_scenes(tmp_path / "again", train=1, val=1, config=config)
    assert np.array_equal(first, np.asarray(Image.open(tmp_path / "again/train/images/000000.png")))
    with pytest.raises(repre.UserError, match="scenes: sise: no such setting; did you mean 'size'"):
        repre.write_scenes(tmp_path / "new", sise=3)
    with pytest.raises(repre.UserError, match="not empty"):
        repre.write_scenes(out)


def test_shards_are_written_with_their_settings(photos: Path, tmp_path: Path) -> None:
    report = repre.write_shards(photos, tmp_path / "shards", size=32, workers=0)
    assert (report.images, report.shards) == (16, 1)
    assert repre.check_data(tmp_path / "shards", workers=0).sizes == {(27, 32): 16}
    with pytest.raises(repre.UserError, match="write_shards: sise: no such setting; did you mean 'size'"):
        repre.write_shards(photos, tmp_path / "new", sise=3)
