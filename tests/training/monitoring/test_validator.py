"""Checks: `best` follows its metric, the probe keeps its time, alarms survive a restart, and nothing touches the weights."""

import json
import math
import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from repre.config import RunConfig, RuntimeConfig
from repre.errors import UserError
from repre.models.encoder import Encoder
from repre.training.loop import train
from repre.training.monitoring.alarm_rules import RULES
from repre.utils.dist import rank, single_process, world_size
from repre.utils.signals import Interrupted
from tests.training.test_broken_runs import alarms, broken
from tests.training.toy import run, toy

pytestmark = pytest.mark.slow


def quick(out: Path, framework: str = "simclr", **runtime: Any) -> RunConfig:
    settings: dict[str, Any] = {
        "device": "cpu",
        "workers": 0,
        "log_every": 1,
        "eval_every_epochs": 1,
        "monitor_samples": 16,
    }
    return toy(out, framework, data="scenes:64:32", runtime=RuntimeConfig(**{**settings, **runtime}))


def summary(out: Path) -> dict[str, Any]:
    return json.loads((out / "summary.json").read_text())


@pytest.mark.parametrize(("metric", "pick"), [("alignment", min), ("psnr", max), ("rankme", max)])
def test_best_follows_the_chosen_metric(tmp_path: Path, metric: str, pick: Any) -> None:
    summary_of_run = run(quick(tmp_path / "run", best_metric=metric))
    chosen = pick(summary_of_run["validations"][1:], key=lambda validation: validation[metric])
    assert summary_of_run["best"]["metric"] == metric
    assert summary_of_run["best"]["step"] == chosen["step"]
    assert torch.load(tmp_path / "run/checkpoints/best.pt", weights_only=True)["step"] == chosen["step"]


def test_best_follows_a_probe_and_is_not_taken_in_by_nan(tmp_path: Path) -> None:
    values = {0: 9.0, 2: 1.0, 4: math.nan, 6: 3.0, 8: math.inf}
    train(quick(tmp_path / "run", best_metric="knn"), probe=lambda encoder, step: {"knn": values[step]})
    assert summary(tmp_path / "run")["best"]["step"] == 6


def test_an_unknown_metric_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no metric 'rankmee'; did you mean 'rankme'"):
        train(quick(tmp_path / "run", best_metric="rankmee"))
    assert not (tmp_path / "run/metrics.jsonl").exists()
    assert run(quick(tmp_path / "other", "byol", best_metric="teacher_follows"))["best"]["metric"] == "teacher_follows"


def test_a_slow_probe_is_left_out_between_the_first_and_the_last_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[int] = []

    def probe(encoder: Encoder, step: int) -> dict[str, float]:
        asked.append(step)
        return {"knn": 0.5}

    train(quick(tmp_path / "patient"), probe=probe)
    assert asked == [0, 2, 4, 6, 8]
    asked.clear()
    train(quick(tmp_path / "hasty", probe_seconds=0.0), probe=probe)
    assert asked == [0, 8]
    assert ["knn" in row for row in summary(tmp_path / "hasty")["validations"]] == [True, False, False, False, True]
    assert "step 4: the probe is skipped until the last validation" in capsys.readouterr().out


def test_alarms_survive_a_restart(tmp_path: Path) -> None:
    optim = broken("simclr learning rate x100", tmp_path).optim
    whole = replace(quick(tmp_path / "straight"), optim=optim)
    train(whole)

    def stop(encoder: Encoder, step: int) -> dict[str, float]:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return {}

    stopped = replace(whole, out=str(tmp_path / "stopped"))
    with pytest.raises(Interrupted):
        train(stopped, probe=stop)
    with open(tmp_path / "stopped/alarms.jsonl", "a") as file:  # raised after the checkpoint by what was lost
        file.write('{"step": 99, "monitor": "rankme"}\n')
    train(stopped)
    assert len(alarms(tmp_path / "straight")) > 1
    assert alarms(tmp_path / "stopped") == alarms(tmp_path / "straight")


@pytest.mark.parametrize("framework", ["moco-v3", "dino", "moby"])
def test_monitors_never_change_the_weights(tmp_path: Path, framework: str) -> None:
    train(quick(tmp_path / "with", framework))
    train(quick(tmp_path / "without", framework, monitors=False, log_every=3, eval_every_epochs=2))
    one, other = (torch.load(tmp_path / f"{n}/checkpoints/last.pt", weights_only=True) for n in ("with", "without"))
    for name, value in one["model"].items():
        assert torch.equal(value, other["model"][name]), name
    assert set(other["validations"][-1]) == {"step", "rankme", "embedding_std", "validation_seconds"}
    last, same = one["validations"][-1], other["validations"][-1]
    assert {name for name in ("rankme", "embedding_std") if last[name] == same[name]} == {
        "rankme",
        "embedding_std",
    }


def test_what_a_run_leaves_for_the_report(tmp_path: Path) -> None:
    summary_of_run = run(quick(tmp_path / "run", "moco-v3"))
    assert summary_of_run["monitor_seconds"] == pytest.approx(
        sum(row["validation_seconds"] for row in summary_of_run["validations"])
    )
    assert "reconstruction" in summary_of_run["balance"] or "both losses" in summary_of_run["balance"]
    with np.load(tmp_path / "run/snapshots/features.npz", allow_pickle=False) as file:
        assert file["images"].shape == (12, 32, 32, 3)
    row = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert {"batch_std", "agreement", "effective_negatives", "negative_share", "update_size", "weight_size"} <= set(row)


@pytest.mark.parametrize("framework", ["moby", "dino"])
def test_every_figure_and_rule_is_documented(tmp_path: Path, framework: str) -> None:
    page = (Path(__file__).parents[3] / "docs/monitors.md").read_text()
    train(quick(tmp_path / "run", framework), probe=lambda encoder, step: {})
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    plain = {"step", "epoch", "loss", "contrastive", "pixel", "grad_norm", "lr", "images_per_s", "data_wait"}
    names = {name for row in rows + summary(tmp_path / "run")["validations"] for name in row} - plain
    for name in {re.sub("_(first|middle|last)$", "_P", name) for name in names}:
        general = re.sub(r"^(level_similarity)_.*", r"\1_A_B", re.sub(r"^(level_share)_.*", r"\1_L", name))
        assert f"`{general}`" in page, name
    table = page.partition("## Alarms")[2].splitlines()
    for rule in RULES:
        limits = [limit for limit in (rule.below, rule.above, rule.start_ratio) if limit is not None]
        assert any(
            line.startswith(f"| `{rule.monitor}` |")
            and any(f"{limit:g}" in line for limit in limits)
            and (rule.patience == 1 or f" {rule.patience}" in line)
            and (rule.start_ratio is not None) == ("of start" in line)
            for line in table
        ), f"{rule.monitor}, limits {limits}"


def test_alone_is_alone() -> None:
    with single_process():
        assert (rank(), world_size()) == (0, 1)
