"""Did it learn, and what limits it? Words from figures; where there is no evidence they say so."""

from dataclasses import dataclass
from statistics import median

from repre.reporting.findings import (
    MOVED,
    Finding,
    Kind,
    baselines,
    dense,
    fidelity,
    gains,
    health,
    losses,
    probes,
)
from repre.reporting.run_data import RunData, number

WAITING = 0.2
"""Share of the time waiting for data from which it is called a limit."""
FEW_STEPS = 2000


@dataclass(frozen=True)
class Verdict:
    """The answer in one line, how it stands (good, bad, limit or unknown), and what it rests on."""

    headline: str
    kind: Kind
    findings: list[Finding]

    def of(self, *kinds: Kind) -> list[Finding]:
        return [f for f in self.findings if f.kind in kinds]

    @property
    def because(self) -> str:
        """The first statement for the answer, and the first limit."""
        if self.kind == "unknown":
            return ""
        first = [*self.of("bad"), *self.of("good")] if self.kind == "bad" else [*self.of("good"), *self.of("bad")]
        return " ".join(f.words for f in [*first[:1], *self.of("limit")[:1]])


def verdict(run: RunData) -> Verdict:
    """The verdict on one run."""
    labeled, baseline, state = [*probes(run), *gains(run)], baselines(run), health(run)
    objectives = [*losses(run), *dense(run), *fidelity(run)]
    findings = [*labeled, *baseline, *state, *objectives, *limits(run)]
    if not labeled:
        told = (
            "No probe with labels was run before and after training; repre eval knn and repre compare are such probes."
        )
        findings.append(Finding("unknown", "Worth of the features", told))
    headline, kind = _answer(
        broken=[f for f in state if f.kind == "bad"],
        asked={f.kind for f in labeled},
        beaten=[f for f in baseline if f.kind == "limit"],
        objectives={f.kind for f in objectives},
    )
    if run.alarms and kind == "good":
        headline = f"{headline}, with {len(run.alarms)} alarm{'s' * (len(run.alarms) > 1)} to look at"
    if run.summary is None:
        headline = f"Not finished. So far: {headline[0].lower()}{headline[1:]}"
    return Verdict(headline, kind, findings)


def _answer(
    *, broken: list[Finding], asked: set[Kind], beaten: list[Finding], objectives: set[Kind]
) -> tuple[str, Kind]:
    """The headline: collapse and divergence first, then labels, then what needs none."""
    if broken:
        return broken[0].title, "bad"
    if {"good", "bad"} <= asked:
        return "It learned in part: the probes do not agree", "limit"
    if "bad" in asked:
        return "It did not learn what the probe asks", "bad"
    if "good" in asked and beaten:
        return f"It learned, but {beaten[0].title[0].lower()}{beaten[0].title[1:]}", "limit"
    if "good" in asked:
        return "It learned", "good"
    if "good" in objectives and asked:
        return "It trained; the probe shows no clear change", "limit"
    if "good" in objectives:
        return "It trained; what the features are worth cannot be told without labels", "limit"
    if "bad" in objectives:
        return "It did not learn", "bad"
    return "Cannot tell: there is too little evidence", "unknown"


# ------------------------------------------------------------------------------------------------------ limits


def limits(run: RunData) -> list[Finding]:
    """What held the run back, and what cannot be told about it."""
    found = []
    wait = waiting(run)
    if wait is None:
        found.append(Finding("unknown", "Speed", "Nothing was logged about the time that training waits for data."))
    else:
        told = f"{wait:.1%} of the time went into waiting for images"
        fix = "raise runtime.workers, or store smaller images"
        if wait > WAITING:
            found.append(Finding("limit", "Waits for data", f"{told}: {fix}."))
        else:
            found.append(Finding("note", "Does not wait for data", f"{told}."))
    steps = int(run.rows[-1]["step"]) if run.rows else 0
    if 0 < steps < FEW_STEPS and run.summary is not None:
        told = f"{steps} steps are few; published runs take tens of thousands or more."
        found.append(Finding("limit", "A short run", told))
    late = _late_progress(run)
    if late is not None and late > MOVED:
        told = f"The loss fell by {late:.1%} over the last fifth of the run: a longer run would probably go further."
        found.append(Finding("limit", "Still falling at the end", told))
    if run.unreadable_count:
        many = run.unreadable_count > 1
        told = f"{run.unreadable_count} file{'s' * many} could not be read and {'are' if many else 'is'} listed below."
        found.append(Finding("limit", "Unreadable files", told))
    balance = (run.summary or {}).get("balance")
    if isinstance(balance, str) and balance:
        found.append(Finding("note", "Balance of the two objectives", f"{balance[0].upper()}{balance[1:]}."))
    return found


def waiting(run: RunData) -> float | None:
    """Share of the time that training waited for data: of the whole run, or the mean of what was logged."""
    whole = number((run.summary or {}).get("data_wait"))
    values = run.column("data_wait")[1]
    return whole if whole is not None else sum(values) / len(values) if values else None


def _late_progress(run: RunData) -> float | None:
    """Share of the loss by which it fell over the last fifth of the run."""
    values = run.column("loss")[1]
    fifth = len(values) // 5
    if fifth < 4:
        return None
    first, last = median(values[-fifth : -(fifth // 2)]), median(values[-(fifth // 2) :])
    return (first - last) / abs(first) if first else None
