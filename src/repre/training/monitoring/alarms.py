"""Raises alarms when the metrics of a run violate the rules of `repre.training.monitoring.alarm_rules`. Imports no torch."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from typing import Any

from repre.training.monitoring.alarm_rules import RULES, Rule, Scope


@dataclass(frozen=True)
class Alarm:
    """A violated rule: a line of alarms.jsonl.

    Attributes:
        step: the step at which the rule's patience ended.
        monitor: name of the metric.
        value, limit: the metric's value at that step, and the limit that it is beyond.
        cause, fix: from the rule.
    """

    step: int
    monitor: str
    value: float
    limit: float
    cause: str
    fix: str

    def __str__(self) -> str:
        return f"ALARM {self.monitor} is {self.value:.3g} (limit {self.limit:.3g}): {self.cause}. {self.fix}"


class AlarmMonitor:
    """Checks the metrics of a run against rules and raises each alarm once.

    The alarms depend on the metrics alone, so a resumed run restores its state with `replay`.

    Args:
        rules: the rules to check.
        steps: of the whole run, for rules that are silent at its start.

    Attributes:
        alarms: all alarms so far.
    """

    def __init__(self, rules: Iterable[Rule] = RULES, *, steps: int = 0) -> None:
        self.rules, self.steps = tuple(rules), steps
        self.alarms: list[Alarm] = []
        self._start: dict[str, float] = {}
        self._streaks: dict[tuple[Rule, str], int] = {}
        self._raised: set[Rule] = set()

    def observe(self, scope: Scope, metrics: Mapping[str, Any]) -> list[Alarm]:
        """Checks the metrics of the next validation or logged step.

        Args:
            metrics: by name, with "step"; values that are not finite numbers are ignored.

        Returns:
            The new alarms.
        """
        new = []
        for name, value in metrics.items():
            if not isinstance(value, int | float) or not math.isfinite(value):
                continue
            start = self._start.setdefault(name, value)
            for rule in self.rules:
                if rule.scope != scope or metrics["step"] < rule.after * self.steps or not fnmatch(name, rule.monitor):
                    continue
                streak = self._streaks.get((rule, name), 0) + 1 if rule.is_violated(value, start, metrics) else 0
                self._streaks[rule, name] = streak
                if streak >= rule.patience and rule not in self._raised:
                    self._raised.add(rule)
                    new.append(Alarm(int(metrics["step"]), name, value, rule.limit(start), rule.cause, rule.fix))
        self.alarms += new
        return new

    def replay(self, rows: Iterable[Mapping[str, Any]], validations: Iterable[Mapping[str, Any]]) -> None:
        """Checks everything that a stopped run logged, in its original order: the step first, then its validation."""
        history: list[tuple[Scope, Mapping[str, Any]]] = [("step", row) for row in rows]
        history += [("validation", validation) for validation in validations]
        for scope, metrics in sorted(history, key=lambda entry: (entry[1]["step"], entry[0] == "validation")):
            self.observe(scope, metrics)

    def as_dicts(self) -> list[dict[str, Any]]:
        """The alarms as plain values, for JSON."""
        return [asdict(alarm) for alarm in self.alarms]
