"""The verdict's words follow from the figures; without evidence they claim nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from repre.reporting.run_data import RunData, read_run
from repre.reporting.verdict import verdict
from tests.reporting import fake_run as make


def run_data(*, drop: tuple[str, ...] = (), summary: dict[str, Any] | None = None, **changes: Any) -> RunData:
    """Data of a run; `drop` are names of figures that it lacks."""
    rows, validations = make.figures(**changes)
    rows, validations = (
        [{k: v for k, v in row.items() if k not in drop} for row in some] for some in (rows, validations)
    )
    summary = {"data_wait": 0.05} | (summary or {})
    return RunData(path=Path("runs/a"), name="a", rows=rows, validations=validations, summary=summary)


UNCLEAR = "It trained; the probe shows no clear change"
UNPROBED = "It trained; what the features are worth cannot be told without labels"


@pytest.mark.parametrize(
    ("run", "headline", "kind"),
    [
        (run_data(), "It learned", "good"),
        (run_data(knn=(0.1, 0.12)), UNCLEAR, "limit"),
        (run_data(knn=(0.1, 0.14)), "It learned", "good"),
        (run_data(knn=(0.4, 0.3)), "It did not learn what the probe asks", "bad"),
        (run_data(spread=0.01), "It collapsed", "bad"),
        (run_data(drop=("knn",)), UNPROBED, "limit"),
        (run_data(drop=("knn", "correspondence", "psnr"), falls=False), "It did not learn", "bad"),
        (run_data(drop=("knn", "correspondence", "psnr", "loss", "contrastive", "pixel")), "Cannot tell", "unknown"),
        (run_data(summary={"knn": {"before": 0.2, "after": 0.6, "raw pixels": 0.7}}),
         "It learned, but does not beat raw pixels", "limit"),
        (RunData(path=Path("a"), name="a", summary={}), "Cannot tell", "unknown"),
    ],
)  # fmt: skip
def test_headlines(run: RunData, headline: str, kind: str) -> None:
    found = verdict(run)
    assert found.headline.startswith(headline)
    assert found.kind == kind


def titles(run: RunData, kind: Any) -> set[str]:
    return {one.title for one in verdict(run).of(kind)}


def test_what_is_not_known_is_said() -> None:
    nothing = RunData(path=Path("a"), name="a", summary={})
    assert titles(nothing, "unknown") == {"Collapse", "Speed", "Worth of the features"}
    assert verdict(nothing).because == ""
    assert "Worth of the features" not in titles(run_data(), "unknown")


def test_a_loss_that_is_not_finite_is_divergence() -> None:
    run = run_data()
    run.rows[-1]["contrastive"] = None
    assert verdict(run).headline == "It diverged"


def test_the_limit_of_an_alarm_counts_only_while_the_figure_is_beyond_it() -> None:
    run = run_data(spread=0.14)
    run.alarms.append({"step": 50, "monitor": "embedding_std", "limit": 0.15})
    assert verdict(run).headline == "It collapsed"
    healed = run_data(spread=0.3)
    healed.alarms.append({"step": 50, "monitor": "embedding_std", "limit": 0.15})
    assert verdict(healed).headline == "It learned, with 1 alarm to look at"


def test_a_cross_entropy_is_judged_above_its_teacher_s_entropy() -> None:
    run = run_data(drop=("knn",))
    for place, row in enumerate(run.rows):
        row["teacher_entropy"] = 5.0 + place / 10
        row["contrastive"] = row["teacher_entropy"] + 1 / (1 + place)
    assert any(title.startswith("Divergence from the teacher fell") for title in titles(run, "good"))
    assert not any("rose" in title for title in titles(run, "bad"))


def test_probes_that_disagree() -> None:
    run = run_data()
    for look in run.validations:
        look["miou"] = 0.5 - look["step"] / 1000
    assert verdict(run).headline == "It learned in part: the probes do not agree"


def test_seconds_of_a_probe_are_no_probe() -> None:
    run = run_data(drop=("knn",))
    for place, look in enumerate(run.validations):
        look["probe_seconds"] = float(place)
    assert verdict(run).headline == UNPROBED


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


def test_the_figures_stand_in_the_words() -> None:
    words = " ".join(one.words for one in verdict(run_data()).findings)
    for figure in ("20.0%", "60.0%", "from 10 to 15", "from 12 to 20", "13.0 dB", "5.0%", "40.0%"):
        assert figure in words


@pytest.mark.parametrize(
    ("said", "mean", "headline"),
    [
        ("better", 0.1, "It learned"),
        ("no difference", 0.001, UNCLEAR),
        ("unknown: one seed", 0.1, UNCLEAR),
        ("worse", -0.1, "It did not learn"),
    ],
)
def test_gains_over_chance_are_evidence(tmp_path: Path, said: str, mean: float, headline: str) -> None:
    run = make.make_run(tmp_path / "a")
    summary = json.loads((run / "summary.json").read_text())
    del summary["knn"]
    for look in summary["validations"]:
        del look["knn"]
    (run / "summary.json").write_text(json.dumps(summary))
    make.add_comparison(tmp_path / "compared", start=str(run), mean=mean, verdict=said)
    assert verdict(read_run(run)).headline.startswith(headline)


def test_an_unfinished_run_says_so(tmp_path: Path) -> None:
    run = make.make_run(tmp_path / "a")
    (run / "summary.json").unlink()
    assert verdict(read_run(run)).headline.startswith("Not finished. So far: it trained")
