"""docs/evidence.md: what is measured, what is missing, and the verdicts of the confirmatory comparison."""

import json
import re
import sys
from pathlib import Path

import pytest
from benchmarks.machine import describe_machine
from experiments.all_presets import PRESETS
from experiments.analysis import table_entries
from experiments.evidence_text import CAPTION, DETAILS
from experiments.methods import FIRST_CONFIRMATORY_SEED, Task
from experiments.presets import TOY
from experiments.quotes import FIGURES
from experiments.run import RESULTS
from experiments.runner import Runner
from experiments.tables import DOCS, PICTURE, evidence_page, main, seed_table, verdicts

from tests.experiments.fake_results import fake_results, vit_rows


def test_the_page_in_the_docs_is_what_the_stored_results_give(tmp_path: Path) -> None:
    presets = [preset for preset in PRESETS.values() if preset.packages]
    stored = (DOCS / "evidence.md").read_text(encoding="utf-8").replace(CAPTION, "")
    without_plots = "\n".join(line for line in stored.splitlines() if not line.startswith("!["))
    page, numbers = evidence_page(RESULTS, tmp_path, presets=presets, plots=False)
    assert page.split() == without_plots.split(), "run python -m experiments.tables"
    assert json.loads((DOCS / FIGURES).read_text(encoding="utf-8")) == numbers, "run python -m experiments.tables"


def test_the_answer_comes_first_and_everything_else_is_folded() -> None:
    stored = (DOCS / "evidence.md").read_text(encoding="utf-8")
    above, below = stored.split(DETAILS)
    order = ["**Does it help?**", "**Where, and where not?**", "**What does it cost?**", PICTURE, "## Claims"]
    places = [above.index(text) for text in order]
    assert places == sorted(places)
    assert above.count("![") == 1
    assert len(above[: places[-1]].split()) < 260
    depth = 0
    for line in below.splitlines():
        depth += line.startswith("<details") - line.startswith("</details")
        assert depth or not line or line.startswith("</details"), line
        assert len(re.findall("Not measured yet", line)) <= 1
    assert depth == 0


@pytest.mark.slow
def test_the_page_shows_results_and_says_what_is_missing(measured: tuple[Runner, list[Task]], tmp_path: Path) -> None:
    runner, _ = measured
    text, _ = evidence_page(runner.folders.results, tmp_path, presets=[TOY, PRESETS["gpu"]], plots=False)
    assert "| object mIoU | moco-v3 + vit + branch |" in text
    assert "linear mIoU, 50% of the labels" in text
    assert "Not measured yet: `python -m experiments.run --preset toy --only 2`" not in text  # table 2 has the defaults
    assert "Not measured yet: `python -m experiments.run --preset toy --only data`" in text
    assert "Not measured yet: `python -m experiments.run --preset gpu`" in text
    assert "<summary>Preset gpu: 0 of " in text
    machine = {key: value for key, value in runner.machine.items() if key != "source"}
    assert f" results: {describe_machine(machine)}; source {runner.machine['source']}\n" in text


def test_the_confirmatory_goal_is_judged_by_the_means() -> None:
    evaluations = ("foreground", "miou", "knn", "linear")
    results = fake_results({name: {"plain": [0.50, 0.60], "branch": [0.54, 0.6401]} for name in evaluations})
    entries = table_entries(vit_rows(), results)
    assert "| 54.0 64.0 |" in seed_table(entries)
    assert "better" in seed_table(entries)
    judged = verdicts(entries, primary="object mIoU")
    assert "the gain is reached, and k-NN and linear are both within the limit (+4.0, +4.0)" in judged
    del results["fresh-fashion-moco-v3-vit-branch", FIRST_CONFIRMATORY_SEED + 1, "knn"]
    assert "undecided" in verdicts(table_entries(vit_rows(), results), primary="object mIoU")
    worse = fake_results({name: {"plain": [0.5, 0.5], "branch": [0.49, 0.488]} for name in evaluations})
    judged = verdicts(table_entries(vit_rows(), worse), primary="object mIoU")
    assert "the gain is **not** reached, and k-NN and linear are **not** both within the limit" in judged


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--results", "typo"), "error: --results typo holds no results"),
        (("--results", ".", "--docs", "nowhere"), "error: --docs nowhere is not a folder"),
        (("--results", ".", "--docs", "."), "error: plots need matplotlib: pip install"),
    ],
)
def test_mistakes_leave_the_page_as_it_was(
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "evidence.md").write_text("before")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("experiments.tables.find_spec", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["tables", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert (tmp_path / "evidence.md").read_text() == "before"
