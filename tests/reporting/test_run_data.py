"""Reading a run's folder: damaged, unknown and missing files are left out with a note."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from repre.errors import UserError
from repre.reporting.run_data import MAX_UNREADABLE, read_run
from tests.reporting import fake_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return fake_run.make_run(tmp_path / "photos")


def test_every_file_is_read(run: Path) -> None:
    fake_run.add_alarm(run)
    fake_run.add_alarm(run, monitor="psnr")
    fake_run.add_evaluation(run)
    data = read_run(run)
    assert data.name == "photos"
    assert [row["step"] for row in data.rows] == list(range(10, fake_run.STEPS + 1, 10))
    assert [row["step"] for row in data.validations] == list(range(0, fake_run.STEPS + 1, fake_run.VALIDATION_STEPS))
    assert list(data.panels) == list(range(0, fake_run.STEPS + 1, fake_run.VALIDATION_STEPS))
    assert data.arrays["patches"].shape == (12, fake_run.GRID, fake_run.GRID, 8)
    assert [alarm["monitor"] for alarm in data.alarms] == ["rankme", "psnr"]
    assert data.evaluations[0]["metrics"]["knn20"] == 0.5
    assert data.notes == []


def test_a_folder_without_a_run_is_refused_and_the_near_one_named(run: Path) -> None:
    with pytest.raises(UserError, match=r"not the folder of a run.*did you mean 'photos'"):
        read_run(run.parent / "photo")
    (run.parent / "empty").mkdir()
    with pytest.raises(UserError, match="not the folder of a run"):
        read_run(run.parent / "empty")


def test_damaged_lines_and_values_that_are_not_finite(run: Path) -> None:
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 210, "loss": NaN, "pixel": Infinity}\n[1]\n{"step": "x"}\n{"step": 220, "lo')
    data = read_run(run)
    assert data.rows[-1] == {"step": 210, "loss": None, "pixel": None}
    assert data.series("loss")[0][-1] == 200
    assert data.notes == ["2 lines of metrics.jsonl cannot be read and are left out."]


def test_a_step_logged_twice_counts_once(run: Path) -> None:
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 50, "loss": 7.0}\n')
    steps, values = read_run(run).series("loss")
    assert steps.count(50) == 1
    assert values[steps.index(50)] == 7.0


def test_an_unfinished_run_has_the_validations_of_its_log(run: Path) -> None:
    (run / "summary.json").unlink()
    (run / "log.txt").write_text("60 images\nstep 0: rankme 11.5, raw pixels 0.25\nstep 50: rankme 9.25, psnr nan\n")
    data = read_run(run)
    assert data.summary is None
    assert data.validations == [{"step": 0, "rankme": 11.5, "raw pixels": 0.25}, {"step": 50, "rankme": 9.25}]
    assert "not finished" in data.notes[0]


def test_alarms_come_from_the_summary_if_their_file_is_missing(run: Path) -> None:
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


def test_damaged_snapshots_are_named(run: Path) -> None:
    path = run / "snapshots" / "features.npz"
    path.write_bytes(path.read_bytes()[:-40])
    data = read_run(run)
    assert data.arrays == {}
    assert "features.npz cannot be read" in data.notes[0]


def test_snapshots_never_unpickle(run: Path) -> None:
    np.savez(run / "snapshots" / "features.npz", images=np.array([{"a": 1}], dtype=object))
    data = read_run(run)
    assert data.arrays == {}
    assert "ValueError" in data.notes[0]


def test_arrays_of_another_type_shape_or_length(run: Path) -> None:
    images = fake_run.draw_images(3)
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


def test_unreadable_files_are_counted_and_the_first_listed(run: Path) -> None:
    (run / "unreadable.txt").write_bytes(b"\xff.png\tx\n" * 70)
    data = read_run(run)
    assert (data.unreadable_count, len(data.unreadable)) == (70, MAX_UNREADABLE)


def test_comparisons_in_the_run_next_to_it_and_requested(run: Path, tmp_path: Path) -> None:
    fake_run.add_comparison(run / "against", start="x")
    fake_run.add_comparison(run.parent / "beside", start=str(run))
    fake_run.add_comparison(run.parent / "of-others", start=str(run.parent / "other"))
    fake_run.add_comparison(tmp_path / "far" / "away", start="y")
    names = [Path(comparison["file"]).parent.name for comparison in read_run(run).comparisons]
    assert names == ["against", "beside"]
    requested = read_run(run, comparisons=[tmp_path / "far" / "away"]).comparisons
    assert [Path(comparison["file"]).parent.name for comparison in requested] == ["away", "against", "beside"]


def test_results_of_random_init_lie_beside_the_run(run: Path) -> None:
    fake_run.add_evaluation(run, start="photos")
    fake_run.add_evaluation(run.parent / "random", start="random:photos", value=0.3)
    shutil.move(run.parent / "random" / "evaluations", run / "evaluations" / "random-init")
    data = read_run(run)
    assert [result["start"] for result in data.random_init] == ["random:photos"]
    assert [result["start"] for result in data.evaluations] == ["photos"]


@pytest.mark.parametrize("part", ["{run}@best", "{run}/checkpoints/best.pt", "{run}/checkpoints", "{run}/encoder"])
def test_a_part_of_a_run_is_answered_by_the_command_for_the_whole(part: str, run: Path) -> None:
    with pytest.raises(UserError) as error:
        read_run(Path(part.format(run=run)))
    assert str(error.value).endswith(f"for its report: repre report {run}")
