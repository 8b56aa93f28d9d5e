"""Summary of the tables: the goals by pair of framework and encoder, and the paper's claims.

A goal is reached, or missed, if the whole interval over seeds is on one side of it; otherwise it is open.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.analysis import METRICS, Entry, Results, load_trainings, table_entries
from experiments.plan import Plan, Row
from experiments.presets import Preset
from repre.evaluation.gains import Gain, gain

MIN_GAIN, MIN_AP_GAIN, MIN_CHANGE = 3.0, 2.0, -0.5
"""Goals in percentage points: gain in the primary metric, gain in box AP, change of the other metrics."""
BRANCH = " + branch"
"""Suffix of the labels of rows with the branch."""


@dataclass(frozen=True)
class Goal:
    """The least difference, in percentage points, that the branch is to make in a metric."""

    metric: str
    threshold: float


def primary_metric(preset: Preset) -> str:
    """Returns the name of the preset's primary metric."""
    return next(iter(METRICS[preset.primary].values()))


def goals(preset: Preset) -> list[Goal]:
    """Returns the goals. If mIoU is not the primary metric, the same gain is a goal in both."""
    box_ap = METRICS[Plan(preset).all_evaluations[-1]]["box_ap"]
    dense = dict.fromkeys((primary_metric(preset), METRICS["miou"]["miou"]))
    return [
        *(Goal(metric, MIN_GAIN) for metric in dense),
        Goal(box_ap, MIN_AP_GAIN),
        Goal("k-NN", MIN_CHANGE),
        Goal("linear", MIN_CHANGE),
    ]


def summary(preset: Preset, rows: list[Row], results: Results, folder: Path) -> str:
    """Returns the goals and the claims in Markdown, as far as they are measured.

    Args:
        folder: folder of the results of all presets, for the training records.
    """
    tables = {
        name: table_entries([row for row in rows if row.table == name], results) for name in {row.table for row in rows}
    }
    parts = [
        "### Summary\n",
        _goal_table(preset, tables["confirmatory"], tables["1"]),
        "The paper's claims:\n",
        *_claims(preset, rows, tables, load_trainings(folder / preset.name)),
    ]
    return "\n".join(parts)


def _goal_table(preset: Preset, confirmatory: list[Entry], exploratory: list[Entry]) -> str:
    columns = goals(preset)
    heads = [f"{goal.metric}, at least {goal.threshold:+g}" for goal in columns]
    lines = [
        "The branch against the plain framework. Each cell has the mean difference in points with its interval, the number "
        "of pairs of seeds in parentheses, and the goal: *reached* or *missed* if the whole interval agrees, otherwise "
        "*open*.\n",
        f"| with the branch | {' | '.join(heads)} |",
        f"|---|{'---|' * len(columns)}",
    ]
    pairs: dict[str, dict[str, Entry]] = {}
    for table, entries in (("confirmatory", confirmatory), ("exploratory", exploratory)):
        for entry in entries:
            if entry.row.baseline and entry.row.label.endswith(BRANCH):
                name = f"{entry.row.label.removesuffix(BRANCH)}, {table}"
                pairs.setdefault(name, {})[entry.metric] = entry
    for name, by_metric in pairs.items():
        cells = [_goal_cell(by_metric.get(goal.metric), goal) for goal in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    exploratory_pairs = [by_metric for name, by_metric in pairs.items() if name.endswith("exploratory")]
    cells = [
        _pooled_cell([by_metric[goal.metric] for by_metric in exploratory_pairs if goal.metric in by_metric], goal)
        for goal in columns
    ]
    lines.append(f"| mean over the exploratory pairs, interval over pairs | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _goal_cell(entry: Entry | None, goal: Goal) -> str:
    if entry is None or entry.gain is None:
        return "–"
    return f"{format_difference(entry)} ({entry.pairs}): {_judge(entry.gain, goal)}"


def _judge(difference: Gain, goal: Goal) -> str:
    if difference.half is None or abs(difference.mean - goal.threshold) < difference.half:
        return "open"
    return "reached" if difference.mean >= goal.threshold else "**missed**"


def _pooled_cell(entries: list[Entry], goal: Goal) -> str:
    means = [entry.gain.mean for entry in entries if entry.gain is not None]
    if not means:
        return "–"
    pooled = pool(means)
    return f"{format_gain(pooled)} ({len(means)}): {_judge(pooled, goal)}"


def pool(differences: Sequence[float]) -> Gain:
    """Returns the mean of differences with the interval over them; each counts once."""
    return gain(differences, [0.0] * len(differences))


def format_difference(entry: Entry) -> str:
    """Formats the difference of an entry, with † if pairs mix machines."""
    assert entry.gain is not None
    return format_gain(entry.gain) + (" †" if entry.mixed else "")


def format_gain(difference: Gain) -> str:
    """Formats a difference in points with its interval, or in parentheses if it has none."""
    if difference.half is None:
        return f"({difference.mean:+.1f})"
    low, high = difference.mean - difference.half, difference.mean + difference.half
    return f"{difference.mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def _claims(
    preset: Preset,
    rows: list[Row],
    tables: Mapping[str, list[Entry]],
    trainings: Mapping[tuple[str, int], dict[str, Any]],
) -> list[str]:
    metric = primary_metric(preset)
    labels = ("without the branch", "last level only", "two levels", "linear decoder")
    return [
        "- *1. Parallel to any contrastive framework; without the branch, it is that framework.* Not a measurement: "
        "`tests/frameworks/test_contract.py` checks both, bit for bit, for every framework.",
        f"- *2. Lightweight.* {_costs(rows, trainings)}",
        f"- *3 and 4. Fuses several depths, and the hierarchy is crucial.* {metric} against the defaults (seeds): "
        f"{_differences(tables['2'], metric, labels)}.",
        f"- *5. Improves various frameworks with various transformers.* {_counts(tables['1'], metric)}",
        "- *6. Transfers better than supervised and self-supervised pre-training.* Other methods against RePre with MoCo v3 "
        "and a ViT; above 0 the other method is better (seeds):\n",
        _comparison(tables["3"]),
    ]


def _costs(rows: list[Row], trainings: Mapping[tuple[str, int], dict[str, Any]]) -> str:
    """The decoder's cost relative to the encoder's, for every pair of table 1."""
    costs = []
    for row in rows:
        if row.table != "1" or not row.label.endswith(BRANCH):
            continue
        records = [trainings[row.method.name, seed] for seed in row.seeds if (row.method.name, seed) in trainings]
        if not records:
            continue
        cost = records[0]["costs"]
        parameters, flops = (cost[f"decoder_{kind}"] / cost[f"encoder_{kind}"] for kind in ("parameters", "flops"))
        longer = next(each.method.name for each in rows if each.method.same_time_as == row.method.name)
        ratios = [trainings[longer, seed]["time_ratio"] for seed in row.seeds if (longer, seed) in trainings]
        time = f"{sum(ratios) / len(ratios) - 1:+.0%}" if ratios else "not measured"
        costs.append(f"{row.label.removesuffix(BRANCH)} {parameters:.0%}, {flops:.0%}, {time}")
    if not costs:
        return "Not measured yet."
    return (
        "The decoder's parameters and forward FLOPs relative to the encoder's, and the increase in step time (alternating "
        f"short trainings): {'; '.join(costs)}."
    )


def _differences(entries: Sequence[Entry], metric: str, labels: tuple[str, ...]) -> str:
    by_label = {entry.row.label: entry for entry in entries if entry.metric == metric and entry.gain is not None}
    return "; ".join(
        f"{label} {_with_seeds(by_label[label])}" if label in by_label else f"{label} not measured" for label in labels
    )


def _with_seeds(entry: Entry) -> str:
    return f"{format_difference(entry)} ({entry.pairs})"


def _counts(entries: Sequence[Entry], metric: str) -> str:
    """In how many pairs of framework and encoder the branch gains, and in how many the interval excludes 0."""
    gains = [
        entry.gain
        for entry in entries
        if entry.metric == metric and entry.gain is not None and entry.row.label.endswith(BRANCH)
    ]
    if not gains:
        return "Not measured yet."
    return (
        f"{metric} is higher with the branch in {sum(each.mean > 0 for each in gains)} of {len(gains)} pairs, by "
        f"{MIN_GAIN:g} points or more in {sum(each.mean >= MIN_GAIN for each in gains)}; the interval over seeds excludes 0 "
        f"in {sum(each.verdict == 'better' for each in gains)}."
    )


def _comparison(entries: Sequence[Entry]) -> str:
    measured = [entry for entry in entries if entry.gain is not None]
    return markdown_table("method", measured, _with_seeds) if measured else "Not measured yet.\n"


def markdown_table(corner: str, entries: Sequence[Entry], cell: Callable[[Entry], str]) -> str:
    """Returns a table with a row per method and a column per metric; a dash where there is no entry.

    Args:
        corner: text of the upper left cell.
        cell: text of an entry's cell.
    """
    by_cell = {(entry.row.label, entry.metric): entry for entry in entries}
    metrics = list(dict.fromkeys(entry.metric for entry in entries))
    lines = [f"| {corner} | {' | '.join(metrics)} |", f"|---|{'---|' * len(metrics)}"]
    for label in dict.fromkeys(entry.row.label for entry in entries):
        cells = (cell(by_cell[label, metric]) if (label, metric) in by_cell else "–" for metric in metrics)
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
