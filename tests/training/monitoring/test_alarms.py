"""Alarms: every rule fires at its limit, in its scope, once; replaying a run raises the same alarms.

Whole trainings, healthy or broken on purpose, are in test_broken_runs.py.
"""

from typing import Any

import pytest

from repre.training.monitoring.alarm_rules import RULES, Bound, Rule, Scope
from repre.training.monitoring.alarms import Alarm, AlarmMonitor


def metric_name(rule: Rule) -> str:
    return rule.monitor.replace("*", "0_1")


def healthy_and_bad_value(rule: Rule) -> tuple[float, float]:
    """A first value within the limit, and a later one just beyond it."""
    absolute = rule.below if rule.below is not None else rule.above
    assert absolute is not None
    direction = -1 if rule.below is not None else 1
    if rule.start_ratio is None:
        healthy = absolute - direction * (abs(absolute) or 1)
    else:
        healthy = 2 * absolute / rule.start_ratio if absolute else 1.0
    limit = rule.limit(healthy)
    return healthy, limit + direction * (0.01 * abs(limit) or 0.01)


def value_at(bound: Bound, *, inside: bool) -> float:
    """A value of the bound's metric, 0.1 away from its limit."""
    if bound.below is not None:
        return bound.below - 0.1 if inside else bound.below + 0.1
    assert bound.above is not None
    return bound.above + 0.1 if inside else bound.above - 0.1


def observe(
    rule: Rule, values: list[float | None], *, scope: Scope | None = None, condition: bool = True
) -> list[Alarm]:
    """The alarms of one rule on a series of values; `condition` tells whether its `only_if` holds."""
    monitor = AlarmMonitor([rule])
    for step, value in enumerate(values):
        metrics: dict[str, Any] = {"step": step, metric_name(rule): value}
        if rule.only_if is not None:
            metrics[rule.only_if.monitor] = value_at(rule.only_if, inside=condition)
        monitor.observe(scope or rule.scope, metrics)
    return monitor.alarms


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.monitor}-{rule.patience}")
def test_a_rule_fires_once_when_its_patience_ends(rule: Rule) -> None:
    healthy, bad = healthy_and_bad_value(rule)
    interrupted = [healthy, *[bad] * (rule.patience - 1), healthy, None, float("nan")]
    values = [*interrupted, *[bad] * (rule.patience + 2)]
    assert observe(rule, interrupted) == []
    (alarm,) = observe(rule, values)
    assert alarm.step == len(interrupted) + rule.patience - 1
    assert (alarm.monitor, alarm.value, alarm.limit) == (metric_name(rule), bad, rule.limit(healthy))
    assert (alarm.cause, alarm.fix) == (rule.cause, rule.fix)
    assert observe(rule, values, scope="step" if rule.scope == "validation" else "validation") == []
    assert len(observe(rule, values, condition=False)) == (rule.only_if is None)


def test_an_untrained_encoder_with_nearly_equal_embeddings_raises_no_alarm() -> None:
    monitor = AlarmMonitor()
    for step in range(20):
        metrics = {"step": step, "embedding_std": 0.02, "rankme": 1.3, "uniformity": -0.004, "patch_rank": 1.5}
        assert monitor.observe("validation", metrics) == []


def test_an_inert_branch_is_no_alarm_at_the_start_nor_where_it_comes_to_life() -> None:
    def alarms(ratios: list[float]) -> list[Alarm]:
        """Of a run of 100 steps with a validation every 10."""
        monitor = AlarmMonitor(steps=100)
        for number, ratio in enumerate(ratios):
            monitor.observe("validation", {"step": 10 * number, "gradient_ratio": ratio})
        return monitor.alarms

    assert alarms([0.004, 0.009, 0.018, 0.04, *[1.5] * 7]) == []
    assert alarms([0.004, 0.01, 0.014, 0.014, 0.03, 0.014, 0.03, 0.014, 0.03, 0.014, 0.03]) == []
    (alarm,) = alarms([0.004, *[0.014] * 10])
    assert (alarm.monitor, alarm.step, alarm.value) == ("gradient_ratio", 50, 0.014)
    assert "inert" in alarm.cause
    assert "--reconstruction.weight" in alarm.fix


def test_replay_raises_the_same_alarms_now_and_later() -> None:
    rows = [{"step": step, "update_size": 1.0 if step > 3 else 0.01} for step in range(1, 9)]
    validations = [{"step": step, "embedding_std": 0.5 / (step + 1) ** 3} for step in range(0, 9, 2)]
    original, resumed = AlarmMonitor(), AlarmMonitor()
    for step in range(9):
        for scope, history in (("step", rows), ("validation", validations)):
            for metrics in history:
                if metrics["step"] == step:
                    original.observe(scope, metrics)  # type: ignore[arg-type]
    assert {alarm.monitor for alarm in original.alarms} == {"update_size", "embedding_std"}
    resumed.replay(rows, validations)
    assert resumed.alarms == original.alarms

    half = AlarmMonitor()  # stopped in the middle of a rule's patience: the resumed run goes on counting
    half.replay(rows[:4], validations[:2])
    assert half.alarms == []
    assert [alarm.monitor for alarm in half.observe("step", rows[4])] == ["update_size"]
