"""The verdict follows from the metrics; without evidence it claims nothing."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repre.reporting.run_data import RunData, read_run
from repre.reporting.verdict import judge
from tests.reporting import fake_run


def run_data(*, drop: tuple[str, ...] = (), summary: dict[str, Any] | None = None, **changes: Any) -> RunData:
    """Data of a run; `drop` names metrics that it does not have."""
    rows, validations = fake_run.metrics(**changes)
    rows, validations = (
        [{k: v for k, v in row.items() if k not in drop} for row in some] for some in (rows, validations)
    )
    summary = {"data_wait": 0.05} | (summary or {})
    return RunData(path=Path("runs/a"), name="a", rows=rows, validations=validations, summary=summary)


UNCLEAR = "It trained, but the probe shows no clear change"
UNPROBED = "It trained; without labels the quality of the features is unknown"


@pytest.mark.parametrize(
    ("run", "headline", "kind"),
    [
        (run_data(), "It learned", "good"),
        (run_data(knn=(0.1, 0.12)), UNCLEAR, "limit"),
        (run_data(knn=(0.1, 0.14)), "It learned", "good"),
        (run_data(knn=(0.4, 0.3)), "It did not learn what the probe measures", "bad"),
        (run_data(spread=0.01), "It collapsed", "bad"),
        (run_data(drop=("knn",)), UNPROBED, "limit"),
        (run_data(drop=("knn", "correspondence", "psnr"), falls=False), "It did not learn", "bad"),
        (run_data(drop=("knn", "correspondence", "psnr", "loss", "contrastive", "pixel")),
         "There is too little evidence to tell", "unknown"),
        (run_data(summary={"knn": {"before": 0.2, "after": 0.6, "raw pixels": 0.7}}),
         "It learned, but does not beat raw pixels", "limit"),
        (RunData(path=Path("a"), name="a", summary={}), "There is too little evidence", "unknown"),
    ],
)  # fmt: skip
def test_headlines(run: RunData, headline: str, kind: str) -> None:
    verdict = judge(run)
    assert verdict.headline.startswith(headline)
    assert verdict.kind == kind


def titles(run: RunData, kind: Any) -> set[str]:
    return {finding.title for finding in judge(run).of_kind(kind)}


def test_unknowns_are_listed() -> None:
    nothing = RunData(path=Path("a"), name="a", summary={})
    assert titles(nothing, "unknown") == {"Collapse", "Speed", "Feature quality"}
    assert judge(nothing).reason == ""
    assert "Feature quality" not in titles(run_data(), "unknown")


def test_a_loss_that_is_not_finite_is_divergence() -> None:
    run = run_data()
    run.rows[-1]["contrastive"] = None
    assert judge(run).headline == "It diverged"


def test_the_limit_of_an_alarm_counts_only_while_the_metric_is_beyond_it() -> None:
    run = run_data(spread=0.14)
    run.alarms.append({"step": 50, "monitor": "embedding_std", "limit": 0.15})
    assert judge(run).headline == "It collapsed"
    healed = run_data(spread=0.3)
    healed.alarms.append({"step": 50, "monitor": "embedding_std", "limit": 0.15})
    assert judge(healed).headline == "It learned, with 1 alarm to check"


def test_a_cross_entropy_is_judged_minus_its_teacher_s_entropy() -> None:
    run = run_data(drop=("knn",))
    for index, row in enumerate(run.rows):
        row["teacher_entropy"] = 5.0 + index / 10
        row["contrastive"] = row["teacher_entropy"] + 1 / (1 + index)
    assert any(title.startswith("Divergence from the teacher fell") for title in titles(run, "good"))
    assert not any("rose" in title for title in titles(run, "bad"))


def test_probes_that_disagree() -> None:
    run = run_data()
    for row in run.validations:
        row["miou"] = 0.5 - row["step"] / 1000
    assert judge(run).headline == "It learned in part: the probes disagree"


def test_the_seconds_of_a_probe_are_not_a_probe() -> None:
    run = run_data(drop=("knn",))
    for index, row in enumerate(run.validations):
        row["probe_seconds"] = float(index)
    assert judge(run).headline == UNPROBED


def test_limits() -> None:
    assert "Waits for data" in titles(run_data(summary={"data_wait": 0.4}), "limit")
    assert "Waits for data" not in titles(run_data(summary={"data_wait": 0.1}), "limit")
    assert "A short run" in titles(run_data(), "limit")
    falling = run_data()
    for row in falling.rows:
        row["loss"] = 5.0 - row["step"] / 50
    assert "Still falling at the end" in titles(falling, "limit")
    flat = run_data()
    for row in flat.rows:
        row["loss"] = 5.0
    assert "Still falling at the end" not in titles(flat, "limit")


def test_findings_contain_their_numbers() -> None:
    text = " ".join(finding.text for finding in judge(run_data()).findings)
    for number in ("20.0%", "60.0%", "from 10 to 15", "from 12 to 20", "13.0 dB", "5.0%", "40.0%"):
        assert number in text


def test_a_run_that_starts_from_another_was_trained_before() -> None:
    run = run_data()
    texts = " ".join(finding.text for finding in judge(run).findings)
    assert "from 20.0% before training" in texts
    started = " ".join(finding.text for finding in judge(replace(run, config={"start_from": "runs/a"})).findings)
    assert "from 20.0% at the start" in started
    assert "before training" not in started


@pytest.mark.parametrize(
    ("judged", "mean", "headline"),
    [
        ("better", 0.1, "It learned"),
        ("no difference", 0.001, UNCLEAR),
        ("unknown: one seed", 0.1, UNCLEAR),
        ("worse", -0.1, "It did not learn"),
    ],
)
def test_gains_over_random_init_are_evidence(tmp_path: Path, judged: str, mean: float, headline: str) -> None:
    run = fake_run.make_run(tmp_path / "a")
    summary = json.loads((run / "summary.json").read_text())
    del summary["knn"]
    for row in summary["validations"]:
        del row["knn"]
    (run / "summary.json").write_text(json.dumps(summary))
    fake_run.add_comparison(tmp_path / "compared", start=str(run), mean=mean, verdict=judged)
    assert judge(read_run(run)).headline.startswith(headline)


def test_an_unfinished_run_says_so(tmp_path: Path) -> None:
    run = fake_run.make_run(tmp_path / "a")
    (run / "summary.json").unlink()
    assert judge(read_run(run)).headline.startswith("Not finished. So far: it trained")
