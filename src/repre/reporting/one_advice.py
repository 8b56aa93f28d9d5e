"""One page advises one value for a setting: where findings and alarms disagree on it, the strongest evidence decides."""

import shlex
from collections.abc import Iterable
from dataclasses import replace

from repre.reporting.findings import Finding
from repre.reporting.next_steps import after_alarm
from repre.reporting.run_data import RunData
from repre.training.failure_record import NextStep

OPTIONS = ("--optim.lr", "--reconstruction.weight")
"""Settings that evidence pulls in both directions."""
UNSTABLE = ("update_size", "weight_size", "embedding_std", "rankme", "batch_std", "uniformity")
"""Alarms of a run that is about to diverge or collapse; they count before every other evidence of a run that did neither."""

Decided = dict[str, NextStep]
"""By a setting's option what to do about it."""


def decide(run: RunData, *, broken: Iterable[Finding], findings: Iterable[Finding]) -> Decided:
    """Returns the advice of the strongest evidence for every setting of `OPTIONS`.

    In falling order: why the run ended; divergence and collapse; alarms of an unstable run; evidence against learning; other
    alarms; limits and what is unknown. Of equally strong evidence the lower value counts, which is the safer one.

    Args:
        broken: the findings of divergence and collapse.
        findings: all findings.
    """
    listed = list(findings)
    alarms = [
        (str(alarm.get("monitor")), step) for alarm in run.alarms if (step := after_alarm(run, alarm)) is not None
    ]
    ranks: list[list[NextStep]] = [
        [] if run.failure is None else run.failure.next_steps,
        _steps(broken),
        [step for monitor, step in alarms if monitor in UNSTABLE],
        _steps(finding for finding in listed if finding.kind == "bad"),
        [step for _, step in alarms],
        _steps(listed),
    ]
    decided: Decided = {}
    for option in OPTIONS:
        for steps in ranks:
            if values := {value: step for step in steps if (value := _value(step, option)) is not None}:
                decided[option] = values[min(values)]
                break
    return decided


def settled(step: NextStep, decided: Decided) -> NextStep:
    """Returns the decided advice about the setting that a step changes; the step itself if it changes no such setting."""
    option = next((option for option in OPTIONS if _value(step, option) is not None), None)
    return decided.get(option, step) if option is not None else step


def with_one_advice(findings: Iterable[Finding], decided: Decided) -> list[Finding]:
    """Returns the findings with the decided advice."""
    return [
        finding if finding.next is None else replace(finding, next=settled(finding.next, decided))
        for finding in findings
    ]


def _steps(findings: Iterable[Finding]) -> list[NextStep]:
    return [finding.next for finding in findings if finding.next is not None]


def _value(step: NextStep, option: str) -> float | None:
    """The value that a step's command gives an option; None if it does not have it."""
    try:
        words = shlex.split(step.command)
        return float(words[words.index(option) + 1])
    except (ValueError, IndexError):
        return None
