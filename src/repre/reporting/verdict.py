"""Answers whether the run learned and what limits it, or that the evidence is not enough."""

from dataclasses import dataclass, field
from statistics import median

from repre.reporting.disagreements import disagreements, settle
from repre.reporting.findings import (
    MIN_LOSS_CHANGE,
    Finding,
    Kind,
    baselines,
    correspondence,
    gains,
    losses,
    probes,
    reconstruction,
    stability,
)
from repre.reporting.next_steps import check_data, longer, measure
from repre.reporting.one_advice import Decided, decide, with_one_advice
from repre.reporting.run_data import RunData, finite_number
from repre.training import next_commands
from repre.training.failure_record import FailureRecord, NextStep

MAX_WAIT = 0.2
"""Share of the time waiting for data above which it is called a limit."""
FEW_STEPS = 2000


@dataclass(frozen=True)
class Verdict:
    """The answer in one line, its kind, and the findings behind it."""

    headline: str
    kind: Kind
    findings: list[Finding]
    failure: FailureRecord | None = None
    """Why the run ended early, which then is the answer."""
    decided: Decided = field(default_factory=dict)
    """By a setting what to do about it, the same on the whole page."""

    @property
    def next_steps(self) -> list[NextStep]:
        """What to do next: all that a failure takes, or what helps against the first finding that is not good."""
        if self.failure is not None:
            return self.failure.next_steps
        if self.kind == "good":
            return []
        weak = [*self.of_kind("bad"), *self.of_kind("unknown", "limit")]
        return [finding.next for finding in weak if finding.next is not None][:1]

    def of_kind(self, *kinds: Kind) -> list[Finding]:
        return [finding for finding in self.findings if finding.kind in kinds]

    @property
    def reason(self) -> str:
        """The first finding that supports the answer, and the first limit."""
        if self.failure is not None:
            message = self.failure.message.rstrip(". ")
            return f"{message[:1].upper()}{message[1:]}."
        if self.kind == "unknown":
            return ""
        good, bad = self.of_kind("good"), self.of_kind("bad")
        supporting = [*bad, *good] if self.kind == "bad" else [*good, *bad]
        return " ".join(finding.text for finding in [*supporting[:1], *self.of_kind("limit")[:1]])


def judge(run: RunData) -> Verdict:
    """Gives the verdict on one run."""
    if run.failure is not None:
        found = [*probes(run), *gains(run), *stability(run), *losses(run), *unreadable(run)]
        return _verdict(run, run.failure.headline, "bad", found, broken=[])
    labeled, baseline, state = settle([*probes(run), *gains(run)]), baselines(run), stability(run)
    unlabeled = [*losses(run), *correspondence(run), *reconstruction(run)]
    findings = [*labeled, *disagreements(run), *baseline, *state, *unlabeled, *limits(run)]
    if not labeled:
        text = "No labeled probe ran before and after training. Run repre eval knn or repre compare to measure the features."
        findings.append(Finding("unknown", "Feature quality", text, measure(run)))
    broken = [finding for finding in state if finding.kind == "bad"]
    headline, kind = _answer(
        broken=broken,
        labeled={finding.kind for finding in labeled},
        not_beaten=[finding for finding in baseline if finding.kind == "limit"],
        unlabeled={finding.kind for finding in unlabeled},
    )
    if run.alarms and kind == "good":
        headline = f"{headline}, with {len(run.alarms)} alarm{'s' * (len(run.alarms) > 1)} to check"
    if run.summary is None:
        headline = f"{'Still running' if run.running else 'Not finished'}. So far: {_lower(headline)}"
    return _verdict(run, headline, kind, findings, broken=broken)


def _verdict(run: RunData, headline: str, kind: Kind, findings: list[Finding], *, broken: list[Finding]) -> Verdict:
    decided = decide(run, broken=broken, findings=findings)
    return Verdict(headline, kind, with_one_advice(findings, decided), run.failure, decided)


def _answer(
    *, broken: list[Finding], labeled: set[Kind], not_beaten: list[Finding], unlabeled: set[Kind]
) -> tuple[str, Kind]:
    """Gives the headline: collapse and divergence decide first, then evidence with labels, then evidence without."""
    if broken:
        return broken[0].title, "bad"
    if {"good", "bad"} <= labeled:
        return "It learned in part: the probes disagree", "limit"
    if "bad" in labeled:
        return "It did not learn what the probe measures", "bad"
    if "good" in labeled and not_beaten:
        return f"It learned, but {_lower(not_beaten[0].title)}", "limit"
    if "good" in labeled:
        return "It learned", "good"
    if "good" in unlabeled and labeled:
        return "It trained, but the probe shows no clear change", "limit"
    if "good" in unlabeled:
        return "It trained; without labels the quality of the features is unknown", "limit"
    if "bad" in unlabeled:
        return "It did not learn", "bad"
    return "There is too little evidence to tell", "unknown"


def _lower(text: str) -> str:
    return f"{text[0].lower()}{text[1:]}"


# ------------------------------------------------------------------------------------------------------ limits


def limits(run: RunData) -> list[Finding]:
    """Finds what held the run back."""
    findings = []
    wait = data_wait(run)
    if wait is None:
        findings.append(Finding("unknown", "Speed", "The log does not show how long training waited for data."))
    elif wait > MAX_WAIT:
        text = f"{wait:.1%} of the time was spent waiting for images. Raise runtime.workers, or store smaller images."
        advice = NextStep(do="measure what limits the speed", command=next_commands.plan(run.path))
        findings.append(Finding("limit", "Waits for data", text, advice))
    else:
        text = f"{wait:.1%} of the time was spent waiting for images."
        findings.append(Finding("note", "Does not wait for data", text))
    steps = int(run.rows[-1]["step"]) if run.rows else 0
    if 0 < steps < FEW_STEPS and run.summary is not None:
        text = f"{steps} step{'s' * (steps > 1)} are few; published runs take tens of thousands or more."
        findings.append(Finding("limit", "A short run", text, longer(run)))
    late_fall = _late_fall(run)
    if late_fall is not None and late_fall > MIN_LOSS_CHANGE:
        text = (
            f"The loss fell by {late_fall:.1%} over the last fifth of the run. A longer run would probably improve it."
        )
        findings.append(Finding("limit", "Still falling at the end", text, longer(run)))
    findings += unreadable(run)
    balance = (run.summary or {}).get("balance")
    if isinstance(balance, str) and balance:
        findings.append(Finding("note", "Balance of the losses", f"{balance[0].upper()}{balance[1:]}."))
    return findings


def unreadable(run: RunData) -> list[Finding]:
    """Counts the files that could not be read."""
    if not run.unreadable_count:
        return []
    files = "1 file" if run.unreadable_count == 1 else f"{run.unreadable_count} files"
    text = f"{files} could not be read; see the section Data."
    return [Finding("limit", "Unreadable files", text, check_data(run))]


def data_wait(run: RunData) -> float | None:
    """Gives the share of the time that training waited for data: of the whole run, or the mean of what was logged."""
    total = finite_number((run.summary or {}).get("data_wait"))
    logged = run.series("data_wait")[1]
    return total if total is not None else sum(logged) / len(logged) if logged else None


def _late_fall(run: RunData) -> float | None:
    """Gives the share by which the loss fell over the last fifth of the run."""
    values = run.series("loss")[1]
    fifth = len(values) // 5
    if fifth < 4:
        return None
    first, last = median(values[-fifth : -(fifth // 2)]), median(values[-(fifth // 2) :])
    return (first - last) / abs(first) if first else None
