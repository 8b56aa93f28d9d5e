"""A run's folder as data: torn, foreign and missing files are passed over with a word."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from repre.errors import UserError
from repre.reporting.run_data import LINES, read_run
from tests.reporting import fake_run as make


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make.make_run(tmp_path / "photos")


def test_everything_is_found(run: Path) -> None:
    make.add_alarm(run)
    make.add_alarm(run, monitor="psnr")
    make.add_evaluation(run)
    found = read_run(run)
    assert found.name == "photos"
    assert [row["step"] for row in found.rows] == list(range(10, make.STEPS + 1, 10))
    assert [look["step"] for look in found.validations] == list(range(0, make.STEPS + 1, make.CHECK))
    assert list(found.panels) == list(range(0, make.STEPS + 1, make.CHECK))
    assert found.arrays["patches"].shape == (12, make.GRID, make.GRID, 8)
    assert [alarm["monitor"] for alarm in found.alarms] == ["rankme", "psnr"]
    assert found.evaluations[0]["metrics"]["knn20"] == 0.5
    assert found.notes == []


def test_a_folder_without_a_run_is_refused_and_the_near_one_named(run: Path) -> None:
    with pytest.raises(UserError, match=r"no run of repre.*did you mean 'photos'"):
        read_run(run.parent / "photo")
    (run.parent / "empty").mkdir()
    with pytest.raises(UserError, match="no run of repre"):
        read_run(run.parent / "empty")


def test_torn_lines_and_values_that_are_not_finite(run: Path) -> None:
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 210, "loss": NaN, "pixel": Infinity}\n[1]\n{"step": "x"}\n{"step": 220, "lo')
    found = read_run(run)
    assert found.rows[-1] == {"step": 210, "loss": None, "pixel": None}
    assert found.column("loss")[0][-1] == 200
    assert found.notes == ["2 lines of metrics.jsonl cannot be read and are left out."]


def test_a_step_logged_twice_counts_once(run: Path) -> None:
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 50, "loss": 7.0}\n')
    steps, values = read_run(run).column("loss")
    assert steps.count(50) == 1
    assert values[steps.index(50)] == 7.0


def test_an_unfinished_run_has_the_looks_of_its_log(run: Path) -> None:
    (run / "summary.json").unlink()
    (run / "log.txt").write_text("60 images\nstep 0: rankme 11.5, raw pixels 0.25\nstep 50: rankme 9.25, psnr nan\n")
    found = read_run(run)
    assert found.summary is None
    assert found.validations == [{"step": 0, "rankme": 11.5, "raw pixels": 0.25}, {"step": 50, "rankme": 9.25}]
    assert "not finished" in found.notes[0]


def test_alarms_of_the_summary_serve_without_their_file(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"alarms": [{"step": 3, "monitor": "psnr"}]}))
    assert read_run(run).alarms == [{"step": 3, "monitor": "psnr"}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("summary.json", "{"),
        ("summary.json", "[1]"),
        ("config.yaml", "a: [1"),
        ("config.yaml", "- 1"),
        ("environment.json", ""),
    ],
)
def test_damaged_files_are_named(run: Path, name: str, content: str) -> None:
    (run / name).write_text(content)
    assert any(note.startswith(f"{name} cannot be read") for note in read_run(run).notes)


def test_snapshots_that_are_none(run: Path) -> None:
    path = run / "snapshots" / "features.npz"
    path.write_bytes(path.read_bytes()[:-40])
    found = read_run(run)
    assert found.arrays == {}
    assert "features.npz cannot be read" in found.notes[0]


def test_snapshots_never_unpickle(run: Path) -> None:
    np.savez(run / "snapshots" / "features.npz", images=np.array([{"a": 1}], dtype=object))
    found = read_run(run)
    assert found.arrays == {}
    assert "ValueError" in found.notes[0]


def test_arrays_of_another_type_shape_or_length(run: Path) -> None:
    images = make.pictures(3)
    np.savez(
        run / "snapshots" / "features.npz",
        images=images,
        rebuilt=images.astype(float),
        patches=np.zeros((3, 4, 4), np.int8),
        pca_level_0=np.zeros((3, 0, 4, 3), np.uint8),
        other=images,
    )
    assert set(read_run(run).arrays) == {"images"}
    np.savez(run / "snapshots" / "features.npz", images=images, rebuilt=images[:2])
    assert read_run(run).arrays == {}


def test_unreadable_files_are_counted_and_the_first_kept(run: Path) -> None:
    (run / "unreadable.txt").write_bytes(b"\xff.png\tx\n" * 70)
    found = read_run(run)
    assert (found.unreadable_count, len(found.unreadable)) == (70, LINES)


def test_comparisons_in_the_run_beside_it_and_named(run: Path, tmp_path: Path) -> None:
    make.add_comparison(run / "against", start="x")
    make.add_comparison(run.parent / "beside", start=str(run))
    make.add_comparison(run.parent / "of-others", start=str(run.parent / "other"))
    make.add_comparison(tmp_path / "far" / "away", start="y")
    names = [Path(one["file"]).parent.name for one in read_run(run).comparisons]
    assert names == ["against", "beside"]
    named = read_run(run, comparisons=[tmp_path / "far" / "away"]).comparisons
    assert [Path(one["file"]).parent.name for one in named] == ["away", "against", "beside"]


def test_chance_is_found_under_the_working_folder(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent)
    make.add_evaluation(run, start="photos")
    for name, start in (("random-photos", "random:photos"), ("random-other", "random:other")):
        make.add_evaluation(run.parent / name, start=start, value=0.3)
        (run.parent / "evaluations").mkdir(exist_ok=True)
        shutil.move(run.parent / name / "evaluations", run.parent / "evaluations" / name)
    assert [one["start"] for one in read_run(Path("photos")).chance] == ["random:photos"]
