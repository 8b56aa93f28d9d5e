"""Sample sizes decide where measurements disagree, and results of different weights are never averaged."""

import hashlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from repre.reporting import write_report
from repre.reporting.disagreements import measurements
from repre.reporting.evaluation_section import stored_results
from repre.reporting.run_data import RunData, read_run
from repre.reporting.verdict import judge
from repre.reporting.verdict_section import key_metrics
from tests.reporting import fake_run
from tests.reporting.commands import check_command
from tests.reporting.test_page import outline

LABELS = {"probe": {"knn": "birds"}}


def probed(path: Path, first: float, last: float, *, images: int | None) -> Path:
    """A run with k-NN on the user's labels while it trained, and none on the scenes."""
    run = fake_run.make_run(path)
    summary = json.loads((run / "summary.json").read_text())
    del summary["knn"]
    for row in summary["validations"]:
        del row["knn"]
        row["probe/knn"] = first + (last - first) * row["step"] / fake_run.STEPS
    if images is not None:
        counts = {"probe/knn": {"data": "birds", "train_images": 200, "test_images": images}}
        (run / "probes.json").write_text(json.dumps(counts))
    (run / "summary.json").write_text(json.dumps(summary))
    config = json.loads(json.dumps({"data": "photos", "epochs": 4} | LABELS))
    (run / "config.yaml").write_text(json.dumps(config))
    return run


def finding(run: RunData, words: str) -> Any:
    (found,) = [one for one in judge(run).findings if words in one.title]
    return found


def test_two_sizes_are_shown_together_and_the_larger_decides(tmp_path: Path) -> None:
    run = probed(tmp_path / "a", 0.2, 0.43, images=200)
    fake_run.add_evaluation(run, start=str(run), value=0.61, images=5000)
    text = finding(read_run(run), "evaluations disagree").text
    assert "61.0\u2009% on 5000 images (repre eval knn) and 43.0\u2009% on 200 images (probe at step 200)" in text
    assert "larger sample decides: 61.0" in text
    page = " ".join(outline(write_report(run)).text)
    assert "k-NN accuracy: evaluations disagree" in page
    assert "k-NN accuracy on your labels" in page


@pytest.mark.parametrize(
    ("value", "images", "data"), [(0.45, 5000, "birds"), (0.61, 200, "birds"), (0.61, 5000, "fish")]
)
def test_no_disagreement_within_noise_at_equal_size_or_on_other_data(
    value: float, images: int, data: str, tmp_path: Path
) -> None:
    run = probed(tmp_path / "a", 0.2, 0.43, images=200)
    fake_run.add_evaluation(run, start=str(run), value=value, images=images, config={"data": data, "seed": 0})
    assert not [one for one in judge(read_run(run)).findings if "disagree" in one.title]


@pytest.mark.parametrize(
    ("images", "headline"), [(5000, "It did not learn"), (50, "It learned"), (None, "It learned in")]
)
def test_probe_and_comparison_contradict_each_other(images: int | None, headline: str, tmp_path: Path) -> None:
    run = probed(tmp_path / "a", 0.2, 0.6, images=500)
    fake_run.add_comparison(tmp_path / "compared", start=str(run), mean=-0.1, verdict="worse")
    fake_run.add_evaluation(run, start=str(run), value=0.6, images=images or 500)
    data = read_run(run)
    assert judge(data).headline.startswith(headline)
    if images is not None:
        assert any("The larger decides" in one.text for one in judge(data).of_kind("good", "bad"))


def test_a_probe_before_training_is_no_measurement(tmp_path: Path) -> None:
    run = RunData(
        path=tmp_path, name="a", validations=[{"step": 0, "knn": 0.5, "rankme": 3.0}], rows=[{"step": 9, "loss": 1.0}]
    )
    assert measurements(run) == []
    assert not [one for one in judge(run).findings if "No collapse" in one.title]
    assert {label for label, _, _ in key_metrics(run)} == set()


def test_results_are_grouped_by_weights_and_distinct_seeds(tmp_path: Path) -> None:
    """Last and best weights, an earlier state, and one seed twice from another path to the same weights."""
    run = fake_run.make_run(tmp_path / "a")
    (run / "encoder").mkdir()
    (run / "encoder" / "model.safetensors").write_bytes(b"weights")
    last = hashlib.sha256(b"weights").hexdigest()
    for seed, value in enumerate((0.5, 0.52, 0.54)):
        fake_run.add_evaluation(run, start=str(run), seed=seed, value=value, weights=last, images=100)
    again = json.loads((run / "evaluations" / f"knn-0-{last[:8]}.json").read_text()) | {"start": "../a"}
    (run / "evaluations" / "knn-again.json").write_text(json.dumps(again))
    fake_run.add_evaluation(run, start=f"{run}/checkpoints/best.pt", value=0.9, weights="b" * 64, step=150)
    fake_run.add_evaluation(run, start=str(run), value=0.1, weights="c" * 64)
    fake_run.add_evaluation(run, start=f"{run}@last", value=0.2, weights="d" * 64, step=67)
    rows = {row["weights"]: row for row in stored_results(read_run(run))}
    assert set(rows) == {"last", "best, step 150", "an earlier state, cccccccc", "an earlier state, step 67"}
    assert (rows["last"]["seeds"], rows["last"]["result"], rows["last"]["images"]) == (
        3,
        "52.0\u2009% ± 2.0\u2009%",
        "100",
    )
    assert (rows["best, step 150"]["seeds"], rows["best, step 150"]["result"]) == (1, "90.0\u2009%")
    assert [one.value for one in measurements(read_run(run)) if one.source.startswith("repre")].count(0.9) == 0


def test_metrics_that_are_no_shares_are_numbers(tmp_path: Path) -> None:
    run = fake_run.make_run(tmp_path / "a")
    depth = {"evaluation": "depth", "main": "delta1", "metrics": {"delta1": 0.75, "rmse": 0.612}}
    fake_run.add_evaluation(run, start=str(run), **depth)
    text = re.sub(r"\s+", " ", " ".join(outline(write_report(run)).text))
    assert "Depth" in text
    assert "depth within 25 % (δ1)" in text
    assert "RMSE, lower is better 0.612" in text


def test_an_unfinished_run_says_how_many_test_images_its_probe_has(tmp_path: Path) -> None:
    """16 images: 6 % to 19 % is noise, which 1000 would not be."""
    run = probed(tmp_path / "a", 0.06, 0.19, images=16)
    summary = json.loads((run / "summary.json").read_text())
    (run / "log.txt").write_text(
        "".join(f"step {row['step']}: probe/knn {row['probe/knn']:.4g}\n" for row in summary["validations"])
    )
    (run / "summary.json").unlink()
    found = finding(read_run(run), "barely changed")
    assert found.kind == "unknown"
    assert "With 16 test images" in found.text
    assert found.next.command == f"repre compare {run} --eval knn --data birds --seeds 3"


@pytest.mark.parametrize(
    ("metric", "evaluation", "labels"),
    [
        ("probe/linear", "linear", "csv:labels.csv"),
        ("probe/miou", "segment", "pairs:{split}/images,{split}/masks"),
        ("probe/patch_knn", "patch-knn", "pairs:{split}/images,{split}/masks"),
    ],
)
def test_a_probe_without_a_clear_change_is_measured_again_on_its_own_labels(
    metric: str, evaluation: str, labels: str, tmp_path: Path
) -> None:
    counts = {metric: {"data": labels, "train_images": 32, "test_images": 16}}
    rows = [{"step": 0, metric: 0.07}, {"step": 8, metric: 0.07}]
    run = RunData(path=tmp_path / "a", name="a", validations=rows, probes=counts)
    command = finding(run, "barely changed").next.command
    words = shlex.split(command)
    assert words[words.index("--eval") + 1] == evaluation
    assert words[words.index("--data") + 1] == labels
    check_command(command)
