"""Who is ahead among several runs, by how much, and at what difference in epochs and settings."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean

from repre.evaluation.gains import gain
from repre.evaluation.result_groups import ResultGroup, group_results, task_key
from repre.reporting.evaluated_weights import is_last
from repre.reporting.findings import PROBE, Kind
from repre.reporting.formatting import flatten
from repre.reporting.measurements import (
    Measurement,
    differs,
    images_tested,
    probe_data,
    probe_images,
)
from repre.reporting.run_data import RunData
from repre.reporting.titles import (
    evaluation_title,
    metric_title,
    result_is_share,
    result_title,
    setting_title,
    write_metric,
    write_result,
)
from repre.training import next_commands
from repre.training.failure_record import NextStep

MAX_SETTINGS = 4
"""Settings that differ and are named in the sentence; all are in the table below it."""


@dataclass(frozen=True)
class Contest:
    """One metric that all runs have.

    Attributes:
        title: of the metric, with its data.
        values: one per run.
        images: test images; None if that is not known.
        texts: the values as text.
    """

    title: str
    values: list[float]
    images: int | None
    texts: list[str]
    share: bool = True
    higher_is_better: bool = True
    per_seed: list[list[float]] = field(default_factory=list)
    """Values of every run at the same seeds; empty for a probe."""

    def chance(self, first: int, second: int) -> str:
        """Why the difference between two runs may be chance; empty if neither the seeds nor the images say so."""
        pair = [Measurement("", self.values[index], self.images, "", "") for index in (first, second)]
        if self.share and not differs(*pair):
            return "within sampling noise"
        if self.per_seed and gain(self.per_seed[first], self.per_seed[second]).verdict == "no difference":
            return "within what the seeds change"
        return ""


@dataclass(frozen=True)
class Leader:
    """The answer in one line, the circumstances, and what to do for a better answer."""

    headline: str
    kind: Kind
    reason: str
    next_steps: list[NextStep]


def find_leader(runs: Sequence[RunData]) -> Leader:
    """Compares the runs by the labeled metric of the most images that all of them have."""
    contests = [*_evaluations(runs), *_probes(runs)]
    circumstances = " ".join([_differences(runs), *_early_ends(runs)])
    compare = NextStep(
        do="evaluate them in the same way, with several seeds (add --data with your labels)",
        command=next_commands.compare(*(run.path for run in runs)),
    )
    if not contests:
        headline = "It is unknown who is ahead: the runs have no labeled metric in common"
        return Leader(headline, "unknown", circumstances, [compare])
    contest = max(contests, key=lambda one: one.images or 0)
    order = sorted(
        range(len(runs)), key=lambda i: -contest.values[i] if contest.higher_is_better else contest.values[i]
    )
    first, second = order[:2]
    gap = abs(contest.values[first] - contest.values[second])
    by = f"{100 * gap:.1f} points" if contest.share else f"{gap:.3g}"
    count = f" on {contest.images} images" if contest.images else ""
    listed = ", ".join(f"{runs[i].name} {contest.texts[i]}" for i in order)
    reason = f"{contest.title}{count}: {listed}. {circumstances}"
    if chance := contest.chance(first, second):
        headline = f"No clear leader: {runs[first].name} and {runs[second].name} differ by {by}, {chance}"
        return Leader(headline, "unknown", reason, [compare])
    headline = f"{runs[first].name} is ahead of {runs[second].name} by {by}"
    if not contest.share and len(contest.per_seed[first]) == 1:
        headline += ", on one seed"
    steps = [compare] if contest.images is None or len(contests) == 1 else []
    return Leader(headline, "good", reason, steps)


def _evaluations(runs: Sequence[RunData]) -> list[Contest]:
    """The stored evaluations of the last weights that all runs share: equal settings and data, mean over common seeds."""
    by_run = [_by_task(run) for run in runs]
    contests = []
    for key in by_run[0]:
        if not all(key in groups for groups in by_run):
            continue
        groups = [groups[key] for groups in by_run]
        seeds = [seed for seed in groups[0].seeds if all(seed in group.seeds for group in groups)]
        if not seeds:
            continue
        first, metric = groups[0].first, groups[0].main
        per_seed = [[float(group.by_seed[seed]["metrics"][metric]) for seed in seeds] for group in groups]
        values = [mean(of_run) for of_run in per_seed]
        config = first["config"] if isinstance(first.get("config"), dict) else {}
        title = f"{evaluation_title(first.get('evaluation'))}, {result_title(metric)}"
        title += f", {config['data']}" if config.get("data") else ""
        title += f", mean of {len(seeds)} seeds" if len(seeds) > 1 else ", one seed"
        texts, share = [write_result(metric, value) for value in values], result_is_share(metric)
        higher = first.get("higher_is_better") is not False
        contests.append(Contest(title, values, images_tested(first), texts, share, higher, per_seed))
    return contests


def _by_task(run: RunData) -> dict[str, ResultGroup]:
    """The results of the last weights by what was measured; of several encoder settings the first ones."""
    found: dict[str, ResultGroup] = {}
    for group in group_results([result for result in run.evaluations if is_last(run, result)]):
        found.setdefault(task_key(group.first), group)
    return found


def _probes(runs: Sequence[RunData]) -> list[Contest]:
    """The last values of the probes that all runs have on the same labels."""
    names = [
        name for name in dict.fromkeys(name for row in runs[0].validations for name in row) if PROBE.fullmatch(name)
    ]
    contests = []
    for name in names:
        series = [run.series(name, validations=True) for run in runs]
        same_data = len({probe_data(run, name) for run in runs}) == 1
        if not same_data or any(not steps or steps[-1] == 0 for steps, _ in series):
            continue
        values = [values[-1] for _, values in series]
        counts = {probe_images(run, name) for run in runs}
        texts = [write_metric(name, value) for value in values]
        contests.append(Contest(metric_title(name), values, counts.pop() if len(counts) == 1 else None, texts))
    return contests


def differing_settings(runs: Sequence[RunData]) -> list[tuple[str, list[str]]]:
    """The settings that differ, with the text of each run; without the folder of a run."""
    configs = [flatten(run.config) for run in runs]
    names = dict.fromkeys(name for config in configs for name in config)
    rows = [(name, [config.get(name, "not set") for config in configs]) for name in names if name != "out"]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def _differences(runs: Sequence[RunData]) -> str:
    """The epochs of the runs, and which further settings differ."""
    epochs = [str(run.config.get("epochs", "an unknown number of")) for run in runs]
    starts = [run.config.get("start_from") for run in runs]
    others = [name for name, _ in differing_settings(runs) if name not in ("epochs", "start_from")]
    if any(starts):
        counts = [f"{count} after those of {start}" if start else count for count, start in zip(epochs, starts)]
        text = "Epochs: " + ", ".join(f"{run.name} {count}" for run, count in zip(runs, counts))
    elif len(set(epochs)) == 1:
        text = f"{'Both' if len(runs) == 2 else 'All'} for {epochs[0]} epochs"
    else:
        text = "Epochs: " + ", ".join(f"{run.name} {count}" for run, count in zip(runs, epochs))
    if not others:
        return f"{text}; no other setting differs."
    named = ", ".join(setting_title(name) for name in others[:MAX_SETTINGS])
    more = f" and {len(others) - MAX_SETTINGS} more" if len(others) > MAX_SETTINGS else ""
    return f"{text}; {len(others)} other setting{'s differ' if len(others) > 1 else ' differs'}: {named}{more}."


def _early_ends(runs: Sequence[RunData]) -> list[str]:
    ended = [f"{run.name} is not finished." for run in runs if run.summary is None and run.failure is None]
    return ended + [f"{run.name}: {run.failure.title}." for run in runs if run.failure is not None]
