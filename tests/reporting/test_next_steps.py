"""Every alarm and every finding that is not good has a next command, and the command line accepts it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from repre.config import RunConfig, dump_yaml
from repre.data.labels.probe_config import ProbeConfig
from repre.recipes import recipe
from repre.reporting import next_steps
from repre.reporting.run_data import RunData
from repre.reporting.verdict import judge
from repre.training import next_commands
from repre.training.monitoring.alarm_rules import RULES, Rule
from tests.reporting import fake_run
from tests.reporting.commands import check_command

FRAMEWORKS = {"negative_share": "simclr", "effective_negatives": "moco-v3", "prototype_information": "dino",
              "teacher_entropy": "dino", "teacher_follows": "byol", "teacher_agreement": "moby"}  # fmt: skip
"""A framework for monitors that not all have."""


def run_with(config: RunConfig, tmp_path: Path, **data: Any) -> RunData:
    """A run of a config that is on the disk, as the advised commands read it."""
    path = tmp_path / "my run"
    path.mkdir()
    (path / "config.yaml").write_text(dump_yaml(config))
    data = {"summary": {}} | data
    return RunData(path=path, name=path.name, config=yaml.safe_load(dump_yaml(config)), **data)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.monitor} {rule.scope}")
def test_every_alarm(rule: Rule, tmp_path: Path) -> None:
    run = run_with(recipe(f"vit-small-{FRAMEWORKS.get(rule.monitor, 'moco-v3')}"), tmp_path)
    alarm = {"monitor": rule.monitor.replace("*", "first"), "value": 37.0, "limit": 1.0, "cause": rule.cause}
    step = next_steps.after_alarm(run, alarm)
    assert step is not None
    check_command(step.command)
    assert step.do in ("list unreadable files and duplicates",) or step.command.count("my run") == 2


def test_an_unknown_monitor_has_no_command(tmp_path: Path) -> None:
    run = run_with(recipe("quickstart"), tmp_path)
    assert next_steps.after_alarm(run, {"monitor": "novel", "value": 1.0}) is None
    assert next_steps.after_alarm(run, {}) is None


WEAK = {
    "collapsed": {"spread": 0.01},
    "probe fell": {"knn": (0.4, 0.3)},
    "probe did not change": {"knn": (0.2, 0.21)},
    "losses did not change": {"falls": False},
}


@pytest.mark.parametrize("weakness", WEAK)
def test_every_weakness(weakness: str, tmp_path: Path) -> None:
    rows, validations = fake_run.metrics(**WEAK[weakness])  # type: ignore[arg-type]
    for row in validations:
        row |= {"correspondence": 0.4 - row["step"] / 1000, "psnr": 12.0 - row["step"] / 1000}
    rows[-1]["pixel"] = 30.0
    summary = {"data_wait": 0.6, "knn": {"after": 0.3, "raw pixels": 0.5}}
    run = run_with(recipe("quickstart"), tmp_path, rows=rows, validations=validations, summary=summary)
    run = replace(run, unreadable_count=3)
    verdict = judge(run)
    weak = verdict.of_kind("bad", "limit")
    assert len(weak) >= 6
    assert not [finding.title for finding in weak if finding.next is None]
    for finding in verdict.findings:
        if finding.next is not None:
            check_command(finding.next.command)
    assert verdict.next_steps


@pytest.mark.parametrize(
    ("lr", "base", "lower"),
    [
        (1.8e-4, 8, 6e-5),  # small-data on 10 images: a third, not the rate that a proportion to 256 images would allow
        (5e-4, 64, 5e-4 / 3),
        (0.1, 256, 5e-4),
        (0.1, 1024, 2e-3),
        (0.1, 64, 2.5e-4),
    ],
)
def test_a_lower_learning_rate_is_a_third_within_the_published_ones(lr: float, base: int, lower: float) -> None:
    assert next_commands.lower_lr({"optim": {"lr": lr, "base_batch_size": base}}) == pytest.approx(lower)


@pytest.mark.parametrize(("ratio", "option"), [(0.1, "--reconstruction.weight"), (4.4, "--epochs")])
def test_a_branch_with_the_larger_gradient_gets_no_more_weight(ratio: float, option: str, tmp_path: Path) -> None:
    rows, validations = fake_run.metrics()
    for row in validations:
        row["gradient_ratio"] = ratio
    run = run_with(recipe("quickstart"), tmp_path, rows=rows, validations=validations)
    assert option in next_steps.heavier_branch(run).command


def test_a_run_that_learned_has_nothing_to_do_first(tmp_path: Path) -> None:
    rows, validations = fake_run.metrics()
    run = run_with(recipe("quickstart"), tmp_path, rows=rows, validations=validations, summary={"data_wait": 0.05})
    assert judge(run).kind == "good"
    assert judge(run).next_steps == []


def test_the_name_of_an_advised_run_does_not_grow(tmp_path: Path) -> None:
    run = run_with(recipe("quickstart"), tmp_path)
    again = replace(run, path=tmp_path / "my run-lr5e-4")
    assert next_steps.lower_lr(again).command.count("-lr") == 2  # in --config and once in --out


def test_measuring_a_run_uses_the_labels_of_its_probes(tmp_path: Path) -> None:
    probe = ProbeConfig(segment="pairs:my images/,masks/")
    step = next_steps.measure(run_with(replace(recipe("quickstart"), probe=probe), tmp_path))
    check_command(step.command)
    assert step.command.endswith("--eval segment --data 'pairs:my images/,masks/' --seeds 3")
    assert "your labels" not in step.do
