"""The grid of trainings on few images runs at toy size, in processes of its own, and leaves out what is measured."""

import json
from pathlib import Path

import numpy as np
import pytest
from experiments.small_data_rows import ROWS, TOY_ROWS
from PIL import Image

from experiments import small_data
from repre.evaluation.fit import FitConfig


@pytest.fixture
def data(tmp_path: Path) -> tuple[Path, Path]:
    """Frames with masks, and photos in class folders."""
    random = np.random.default_rng(0)
    for part, count in (("train", 8), ("test", 4)):
        for index in range(count):
            pixels, mask = random.integers(0, 255, (40, 48, 3), np.uint8), random.integers(0, 3, (40, 48), np.uint8)
            for folder, array in (
                ("camvid/{}/images", pixels),
                ("camvid/{}/masks", mask),
                (f"photos/{{}}/{index % 2}", pixels),
            ):
                path = tmp_path / folder.format(part) / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    return tmp_path / "camvid", tmp_path / "photos"


def test_names_of_rows_are_unique() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)


@pytest.mark.slow
def test_toy_rows_are_measured_once(
    data: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results.json"
    options = f"--toy --camvid {data[0]} --photos {data[1]} --device cpu --workers 0 --processes 2"
    monkeypatch.setattr(
        "sys.argv", ["small_data", *options.split(), "--out", str(tmp_path / "o"), "--results", str(results)]
    )
    small_data.main()
    rows = json.loads(results.read_text())["rows"]
    assert set(rows) == {row.name for row in TOY_ROWS}
    assert not [row["error"] for row in rows.values() if "error" in row]
    assert all("knn20" in row if "photos" in name else "miou4" in row for name, row in rows.items())
    assert all(row["gradient_ratio"] > 0 for name, row in rows.items() if "w10" in name)
    assert len(results.with_suffix(".md").read_text().splitlines()) == 2 + len(TOY_ROWS)
    capsys.readouterr()
    small_data.main()
    assert capsys.readouterr().out.startswith(f"{len(rows)} of {len(rows)} rows are measured")


def test_nothing_starts_after_the_time_limit(data: tuple[Path, Path], tmp_path: Path) -> None:
    job = small_data.Job("cpu", 0, {"camvid": str(data[0])}, tmp_path / "o", FitConfig(epochs=1))
    small_data.run(TOY_ROWS[:2], job, processes=1, seconds=0.0, results=tmp_path / "results.json")
    assert not (tmp_path / "results.json").exists()
