"""What a page says about results names their weights and settings, and counts only those of this run's last weights."""

import hashlib
import json
import re
from pathlib import Path

import pytest
import yaml

from repre.data.labels.same_images import SAME_IMAGES
from repre.reporting import write_report
from repre.reporting.evaluation_section import stored_results
from repre.reporting.findings import baselines, gains
from repre.reporting.leader import find_leader
from repre.reporting.run_data import RunData, read_run
from tests.reporting import fake_run
from tests.reporting.test_page import outline

LAST = hashlib.sha256(b"weights").hexdigest()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run with an exported encoder."""
    path = fake_run.make_run(tmp_path / "x" / "a")
    (path / "encoder").mkdir()
    (path / "encoder" / "model.safetensors").write_bytes(b"weights")
    return path


def page(run: Path) -> str:
    return re.sub(r"\s+", " ", " ".join(outline(write_report(run)).text))


def test_an_evaluation_of_an_unfinished_run_and_of_the_finished_one_are_two_rows(run: Path) -> None:
    """Step 67, then the end, both with seed 0: never "± 0.0 %, 2 seeds"."""
    fake_run.add_evaluation(run, start="runs/a", value=0.5, weights="e" * 64, step=67)
    fake_run.add_evaluation(run, start="runs/a", value=0.5, weights=LAST, step=200)
    rows = [(row["weights"], row["result"], row["seeds"]) for row in stored_results(read_run(run))]
    assert sorted(rows) == [("an earlier state, step 67", "50.0\u2009%", 1), ("last, step 200", "50.0\u2009%", 1)]


def test_while_a_run_goes_on_the_highest_step_is_the_last(run: Path) -> None:
    (run / "encoder" / "model.safetensors").unlink()
    for step, value, weights in ((67, 0.3, "e"), (100, 0.4, "f")):
        fake_run.add_evaluation(run, start="runs/a", value=value, weights=64 * weights, step=step)
    fake_run.add_evaluation(run, start="runs/a@best", value=0.9, weights="b" * 64, step=150)
    titles = {row["weights"] for row in stored_results(read_run(run))}
    assert titles == {"last, step 100", "an earlier state, step 67", "best, step 150"}


def test_results_without_a_hash_are_apart_and_no_evidence(run: Path) -> None:
    fake_run.add_evaluation(run, seed=0, value=0.9)
    fake_run.add_evaluation(run, seed=1, value=0.5, weights=LAST)
    rows = {row["weights"]: row["result"] for row in stored_results(read_run(run))}
    assert rows == {"last": "50.0\u2009%", "not known: the result has no hash of them": "90.0\u2009%"}


def test_rows_say_which_settings_and_files_differ(run: Path) -> None:
    for name, config, details in (
        ("a", {"crop_pct": None}, {"data_identity": "0123456789", "test_images": 5}),
        ("b", {"crop_pct": 0.9}, {"data_identity": "0123456789", "test_images": 5}),
        ("c", {"crop_pct": None}, {"data_identity": "abcdefghij", "test_images": 7}),
        ("d", {}, {"data_identity": "0123456789", "test_images": 5}),
    ):
        fake_run.add_evaluation(run, weights=LAST, config={"data": "birds", "seed": 0} | config, details=details)
        (run / "evaluations" / f"knn-0-{LAST[:8]}.json").rename(run / "evaluations" / f"{name}.json")
    rows = [(row["settings"], row["images"], row["seeds"]) for row in stored_results(read_run(run))]
    assert sorted(rows) == [
        ("crop_pct 0.9, files of the data 012345, number of images 5", "5", 1),
        ("crop_pct none, files of the data 012345, number of images 5", "5", 1),
        ("crop_pct none, files of the data abcdef, number of images 7", "7", 1),
        ("crop_pct not recorded, files of the data 012345, number of images 5", "5", 1),
    ]
    assert "Settings that differ" in page(run)


def test_equal_failed_and_conflicting_seeds_are_said(run: Path) -> None:
    """Other metrics are means as well, not those of the first seed."""
    for seed, value in enumerate((0.5, 0.5, float("nan"))):
        metrics = {"knn20": value, "knn10": 0.2 + 0.1 * seed}
        fake_run.add_evaluation(run, seed=seed, weights=LAST, metrics=metrics)
    twin = json.loads((run / "evaluations" / f"knn-0-{LAST[:8]}.json").read_text())
    twin["metrics"]["knn20"] = 0.75
    (run / "evaluations" / "knn-twin.json").write_text(json.dumps(twin))
    (row,) = stored_results(read_run(run))
    assert (row["result"], row["seeds"]) == ("50.0\u2009%", 2)
    assert row["remarks"] == [
        "the same at each",
        "left out, not a number: seed 2",
        "several results that differ, one is shown: seed 0",
    ]
    assert "accuracy, k = 10 25.0\u2009% ± 7.1\u2009%" in row["others"]


def test_a_test_on_the_training_images_says_so(run: Path) -> None:
    fake_run.add_evaluation(run, weights=LAST, details={"notes": [SAME_IMAGES]})
    (row,) = stored_results(read_run(run))
    assert row["remarks"] == ["tested on the training images"]


def test_the_best_checkpoint_chosen_by_the_same_labels_says_so(run: Path) -> None:
    (run / "probes.json").write_text(json.dumps({"probe/knn": {"data": "birds/", "test_images": 50}}))
    config = yaml.safe_load((run / "config.yaml").read_text()) | {"runtime": {"best_metric": "probe/knn"}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    fake_run.add_evaluation(run, start="runs/a@best", weights="b" * 64, step=150)
    fake_run.add_evaluation(run, start="runs/a@best", weights="b" * 64, step=150, seed=1, config={"data": "fish"})
    titles = {row["weights"] for row in stored_results(read_run(run))}
    assert titles == {"best, step 150, chosen by probe/knn on these labels", "best, step 150"}


def add_random(run: Path, *, value: float, seed: int = 0, **changes: object) -> None:
    fake_run.add_evaluation(run / "r", start="random:a", value=value, seed=seed, weights="random", **changes)
    folder = run / "evaluations" / "random-init"
    folder.mkdir(parents=True, exist_ok=True)
    for path in (run / "r" / "evaluations").iterdir():
        path.rename(folder / f"{seed}.json")


def test_gains_pair_equal_settings_and_seeds_and_state_their_interval(run: Path) -> None:
    for seed, value in enumerate((0.5, 0.54, 0.52)):
        fake_run.add_evaluation(run, seed=seed, value=value, weights=LAST)
        add_random(run, seed=seed, value=(0.40, 0.41, 0.45)[seed])
    (row,) = stored_results(read_run(run))
    assert row["gain"] == {"text": "+10.00 ± 7.45", "verdict": "better", "remark": "3 pairs of seeds, better"}


@pytest.mark.parametrize(
    "changes", [{"config": {"data": "birds", "size": 96}}, {"details": {"size": [96, 96]}}, {"seed": 7},
                {"encoder": {"name": "another", "weights": "random"}}]
)  # fmt: skip
def test_no_gain_between_other_settings_sizes_seeds_or_models(changes: dict[str, object], run: Path) -> None:
    fake_run.add_evaluation(run, value=0.5, weights=LAST)
    seed = changes.pop("seed", 0)
    assert isinstance(seed, int)
    add_random(run, value=0.4, seed=seed, **changes)
    (row,) = stored_results(read_run(run))
    assert row["gain"] is None


def test_one_pair_has_no_interval(run: Path) -> None:
    fake_run.add_evaluation(run, value=0.5, weights=LAST)
    add_random(run, value=0.4)
    (row,) = stored_results(read_run(run))
    assert row["gain"] == {"text": "+10.00", "verdict": "unknown: one seed", "remark": "1 pair of seeds"}


@pytest.mark.parametrize(("weights", "counts"), [(LAST, 1), ("e" * 64, 0), (None, 1)])
def test_a_comparison_of_earlier_weights_is_marked_and_no_evidence(weights: str | None, counts: int, run: Path) -> None:
    folder = run.parent / "compared"
    fake_run.add_comparison(folder, start=str(run))
    content = json.loads((folder / "compare.json").read_text())
    for result in content["results"] if weights is not None else []:
        result |= {"weights": weights, "step": 67}
    (folder / "compare.json").write_text(json.dumps(content))
    assert len(gains(read_run(run))) == counts
    assert ("earlier weights, step 67" in page(run)) == (not counts)


def test_a_comparison_of_another_run_of_the_same_name_is_not_about_this_one(run: Path) -> None:
    other = fake_run.make_run(run.parent.parent / "y" / "a")
    fake_run.add_comparison(run.parent / "compared", start=str(other))
    assert gains(read_run(run, comparisons=[run.parent / "compared"])) == []


def test_paths_of_a_comparison_count_from_its_folder(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run.parent / "compared"
    fake_run.add_comparison(folder, start="runs/a")
    content = json.loads((folder / "compare.json").read_text()) | {"format": 2}
    content["results"] = [{"path": "../a/evaluations/knn-0.json", "start": "runs/a", "weights": LAST}]
    (folder / "compare.json").write_text(json.dumps(content))
    monkeypatch.chdir(run.parent.parent)
    assert len(gains(read_run(Path("x/a")))) == 1


def test_the_leader_compares_common_seeds_of_the_last_weights(run: Path) -> None:
    """Seed 0 of another state and a second copy of a seed do not count."""
    other = fake_run.make_run(run.parent / "b")
    (other / "encoder").mkdir()
    (other / "encoder" / "model.safetensors").write_bytes(b"others")
    theirs = hashlib.sha256(b"others").hexdigest()
    for path, weights, values in ((run, LAST, (0.60, 0.62)), (other, theirs, (0.70, 0.72, 0.1))):
        for seed, value in enumerate(values):
            fake_run.add_evaluation(path, value=value, seed=seed, weights=weights, images=5000)
    fake_run.add_evaluation(run, value=0.99, weights="e" * 64, images=5000)
    leader = find_leader([read_run(run), read_run(other)])
    assert leader.headline == "b is ahead of a by 10.0 points"
    assert "mean of 2 seeds on 5000 images: b 71.0\u2009%, a 61.0\u2009%" in leader.reason


def test_a_difference_that_the_seeds_make_has_no_leader(tmp_path: Path) -> None:
    for name, values in (("a", (0.5, 0.9)), ("b", (0.8, 0.5))):
        path = fake_run.make_run(tmp_path / name)
        for seed, value in enumerate(values):
            fake_run.add_evaluation(path, value=value, seed=seed, images=50000)
    leader = find_leader([read_run(tmp_path / name) for name in "ab"])
    assert leader.headline == "No clear leader: a and b differ by 5.0 points, within what the seeds change"


def test_a_baseline_within_noise_is_not_called_beaten(tmp_path: Path) -> None:
    run = RunData(path=tmp_path, name="a", summary={"knn": {"after": 0.501, "raw pixels": 0.5}})
    (found,) = baselines(run)
    assert (found.kind, found.title) == ("limit", "Is not clearly better than raw pixels")
