"""Alarms: every rule at its limit, in its scope, once; a resumed run finds the same. Whole trainings that are healthy, or
broken on purpose, are in test_broken_runs.py."""

from typing import Any

import pytest

from repre.training.monitoring.alarms import RULES, Health, Rule


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
        assert not other.observe("step" if rule.scope == "validation" else "validation", look(rule, step, value))
    if rule.also is not None:
        for step, value in enumerate(values):
            figures = look(rule, step, value)
            figures[rule.also[0]] = rule.also[2] - rule.also[1] * 0.1
            assert not other.observe(rule.scope, figures)


def test_an_untrained_encoder_whose_embeddings_are_alike_is_no_alarm() -> None:
    health = Health()
    for step in range(20):
        figures = {"step": step, "embedding_std": 0.02, "rankme": 1.3, "uniformity": -0.004, "patch_rank": 1.5}
        assert not health.observe("validation", figures)


def test_replay_finds_the_same_alarms() -> None:
    rows = [{"step": step, "update_size": 1.0 if step > 3 else 0.01} for step in range(1, 9)]
    looked = [{"step": step, "embedding_std": 0.5 / (step + 1) ** 3} for step in range(0, 9, 2)]
    straight, again = Health(), Health()
    for step in range(9):
        for row in rows:
            straight.observe("step", row) if row["step"] == step else None
        for one in looked:
            straight.observe("validation", one) if one["step"] == step else None
    again.replay(rows, looked)
    assert {alarm.monitor for alarm in straight.alarms} == {"update_size", "embedding_std"}
    assert again.alarms == straight.alarms
    assert again.in_a_row == straight.in_a_row
