"""Alarms: every rule at its limit; silence on healthy runs of the five frameworks; the right alarm on runs that were broken
on purpose."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from repre.model import ReconstructionConfig
from repre.train.health import RULES, Health, Rule
from tests import tiny
from tests.train.toy import STEPS_PER_EPOCH, run, toy

# ----------------------------------------------------------------------------------------------------- the rules


def series(rule: Rule) -> tuple[str, float, float]:
    """A figure's name, a value in order to start with, and one just beyond the limit."""
    own = rule.below if rule.below is not None else rule.above
    assert own is not None
    side = -1 if rule.below is not None else 1
    if rule.of_start is None:
        start = own - side * (abs(own) or 1)
    elif own:
        start = 2 * own / rule.of_start
    else:
        start = 1.0
    limit = rule.limit(start)
    return rule.monitor.replace("*", "0_1"), start, limit + side * (0.01 * abs(limit) or 0.01)


def look(rule: Rule, step: int, value: float | None) -> dict[str, Any]:
    figures: dict[str, Any] = {"step": step, rule.monitor.replace("*", "0_1"): value}
    if rule.also is not None:
        name, side, bound = rule.also
        figures[name] = bound + side * 0.1
    return figures


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.monitor}-{rule.also[1] if rule.also else ''}")
def test_a_rule_fires_after_its_patience_and_once(rule: Rule) -> None:
    name, start, beyond = series(rule)
    assert not rule.broken(start, start, look(rule, 0, start))
    health = Health([rule])
    values = [
        start,
        *[beyond] * (rule.patience - 1),
        start,
        None,
        float("nan"),
        *[beyond] * rule.patience,
        beyond,
        beyond,
    ]
    fired = [
        alarm for step, value in enumerate(values) for alarm in health.observe(rule.scope, look(rule, step, value))
    ]
    assert [alarm.step for alarm in fired] == [2 * rule.patience + 2]
    assert (fired[0].monitor, fired[0].value) == (name, beyond)
    assert fired[0].cause
    assert fired[0].fix
    other = Health([rule])
    for step, value in enumerate(values):
        assert not other.observe("step" if rule.scope == "look" else "look", look(rule, step, value))
    if rule.also is not None:
        for step, value in enumerate(values):
            figures = look(rule, step, value)
            figures[rule.also[0]] = rule.also[2] - rule.also[1] * 0.1
            assert not other.observe(rule.scope, figures)


def test_an_untrained_encoder_whose_embeddings_are_alike_is_no_alarm() -> None:
    health = Health()
    for step in range(20):
        figures = {"step": step, "embedding_std": 0.02, "rankme": 1.3, "uniformity": -0.004, "patch_rank": 1.5}
        assert not health.observe("look", figures)


def test_replay_finds_the_same_alarms() -> None:
    rows = [{"step": step, "update_size": 1.0 if step > 3 else 0.01} for step in range(1, 9)]
    looked = [{"step": step, "embedding_std": 0.5 / (step + 1) ** 3} for step in range(0, 9, 2)]
    straight, again = Health(), Health()
    for step in range(9):
        for row in rows:
            straight.observe("step", row) if row["step"] == step else None
        for one in looked:
            straight.observe("look", one) if one["step"] == step else None
    again.replay(rows, looked)
    assert {alarm.monitor for alarm in straight.alarms} == {"update_size", "embedding_std"}
    assert again.alarms == straight.alarms
    assert again.in_a_row == straight.in_a_row


# ------------------------------------------------------------------------------------------------ whole small runs


def alarms(out: Path) -> list[dict[str, Any]]:
    file = out / "alarms.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.mark.parametrize("framework", tiny.FRAMEWORKS)
def test_silent_on_healthy_runs(tmp_path: Path, framework: str, capsys: pytest.CaptureFixture[str]) -> None:
    summary = run(toy(tmp_path / "run", framework, epochs=7))
    assert summary["alarms"] == []
    assert alarms(tmp_path / "run") == []
    assert "ALARM" not in capsys.readouterr().out
    assert summary["looks"][-1]["psnr"] > summary["looks"][0]["psnr"] + 1
    assert summary["looks"][-1]["distinct_images"] == 1


def broken(name: str, tmp_path: Path) -> dict[str, Any]:
    """What is changed to break a run."""
    framework = name.partition(" ")[0]
    config = tiny.FRAMEWORKS[framework]
    what = name.partition(" ")[2]
    if what == "hot":
        changed = {"teacher_temperature_start": 10.0, "teacher_temperature": 10.0} if framework == "dino" else {}
        return {"framework": replace(config, **(changed or {"temperature": 20.0}))}
    if what == "cold":
        changed = {"teacher_temperature_start": 1e-4, "teacher_temperature": 1e-4} if framework == "dino" else {}
        return {"framework": replace(config, **(changed or {"temperature": 0.001}))}
    if what == "frozen teacher":
        return {"framework": replace(config, momentum=1.0)}
    if what == "learning rate x100":
        optim = toy(tmp_path).optim
        return {"optim": replace(optim, lr=100 * optim.lr)}
    if what == "branch weight x1000":
        return {"reconstruction": ReconstructionConfig(weight=1000.0)}
    assert what == "one image"
    (tmp_path / "photos").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    for i in range(64):
        Image.fromarray(noise).resize((32, 32), Image.Resampling.BICUBIC).save(tmp_path / f"photos/{i:02d}.png")
    return {"data": str(tmp_path / "photos")}


EPOCHS = {"hot": 2, "cold": 2, "frozen teacher": 3, "branch weight x1000": 4, "one image": 1}
"""Long enough for the patience of the rules."""


@pytest.mark.parametrize(
    ("name", "first", "also"),
    [
        ("moco-v3 hot", "negative_share", set()),
        ("simclr hot", "negative_share", set()),
        ("moby hot", "negative_share", set()),
        ("dino hot", "prototype_information", {"gradient_ratio"}),
        ("moco-v3 cold", "effective_negatives", set()),
        ("simclr cold", "effective_negatives", set()),
        ("moby cold", "effective_negatives", set()),
        ("dino cold", "teacher_entropy", set()),
        ("moco-v3 frozen teacher", "teacher_follows", set()),
        ("dino frozen teacher", "teacher_follows", set()),
        ("byol frozen teacher", "teacher_follows", set()),
        ("simclr branch weight x1000", "gradient_ratio", set()),
        ("byol branch weight x1000", "gradient_ratio", set()),
        ("dino branch weight x1000", "gradient_ratio", set()),
        ("simclr one image", "distinct_images", set()),
        ("byol one image", "distinct_images", set()),
    ],
)
def test_the_right_alarm_on_a_broken_run(tmp_path: Path, name: str, first: str, also: set[str]) -> None:
    framework, _, what = name.partition(" ")
    config = replace(toy(tmp_path / "run", framework, epochs=EPOCHS[what]), **broken(name, tmp_path))
    summary = run(config)
    found = alarms(tmp_path / "run")
    assert found == summary["alarms"]
    assert found[0]["monitor"] == first
    assert {alarm["monitor"] for alarm in found} - {first} <= also
    assert set(found[0]) == {"step", "monitor", "value", "limit", "cause", "fix"}


@pytest.mark.parametrize("framework", ["moco-v3", "byol", "simclr"])
def test_a_learning_rate_x100_is_named_before_what_it_wrecks(
    tmp_path: Path, framework: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(toy(tmp_path / "run", framework), **broken(f"{framework} learning rate x100", tmp_path))
    found = run(config)["alarms"]
    assert [alarm["monitor"] for alarm in found[:2]] == ["update_size", "weight_size"]
    assert found[1]["step"] <= 2 * STEPS_PER_EPOCH
    assert {"embedding_std", "rankme"} & {alarm["monitor"] for alarm in found}
    printed = capsys.readouterr().out
    assert "ALARM update_size" in printed
    assert "Divide --optim.lr" in printed
    assert "ALARM update_size" in (tmp_path / "run/log.txt").read_text()
