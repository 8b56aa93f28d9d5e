"""The published pictures show what the program does with today's settings; docs/images/sources.json says what they show."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.docs_script import script

pytest.importorskip("matplotlib", reason="matplotlib is not installed; it is part of repre[dev]")
ROOT = Path(__file__).parents[1]
make_pictures: Any = script("make_pictures")
SOURCES = json.loads(make_pictures.SOURCES.read_text(encoding="utf-8"))


def test_the_run_behind_the_pictures_has_the_settings_of_today() -> None:
    assert SOURCES["quickstart"] == make_pictures.quickstart_settings(), "the quickstart has changed: make pictures"


def test_the_picture_of_the_speed_shows_the_stored_results() -> None:
    stored = {method: make_pictures.digest(path) for method, path in make_pictures.speed_results().items()}
    assert set(stored) == set(make_pictures.SPEED)
    assert SOURCES["speed"] == stored, "the results have changed: make pictures"


def test_every_picture_is_made_and_shown() -> None:
    """A picture that no script makes could show anything; one that no page shows is left over."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    shown = {name for page in pages for name in re.findall(r"images/([\w.-]+\.png)", page.read_text(encoding="utf-8"))}
    there = {path.name for path in make_pictures.IMAGES.glob("*.png")}
    assert there == shown
    assert {name for name in there if not name.startswith("evidence")} == {*make_pictures.PICTURES}


def test_the_panel_shows_images_reconstructions_and_features(tmp_path: Path) -> None:
    (tmp_path / "snapshots").mkdir()
    random = np.random.default_rng(0)
    images, colors = (random.integers(0, 255, (3, side, side, 3), dtype=np.uint8) for side in (16, 4))
    arrays = {"images": images, "rebuilt": images // 2, "pca_level_0": colors // 2, "pca_level_1": colors}
    np.savez(tmp_path / "snapshots/features.npz", **arrays)
    drawn = [np.asarray(axes.images[0].get_array()) for axes in make_pictures.draw_panel(tmp_path).axes]
    for found, expected in zip(drawn, [*images, *(images // 2), *colors], strict=True):
        assert np.array_equal(found, expected)


def test_the_speed_shows_the_median_of_each_contender(tmp_path: Path) -> None:
    rates = {"plain": [3.0, 1.0, 2.0], "repre": [7.0, 5.0, 6.0], "repre, later epochs": [9.0]}
    runs = {name: [{"images_per_s": rate} for rate in values] for name, values in rates.items()}
    (tmp_path / "result.json").write_text(json.dumps({"runs": runs}))
    (axes,) = make_pictures.draw_speed({"simclr": tmp_path / "result.json"}).axes
    assert [bar.get_width() for bar in axes.patches] == [2.0, 6.0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["plain", "repre"]
