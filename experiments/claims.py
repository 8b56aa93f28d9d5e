"""What the tables say of the paper's claims and of the goals that were set for them, in a few lines.

A goal is reached, or missed, where the whole interval over seeds says so; else it is open.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.analysis import FIGURES, Line, Results, lines, training_notes
from experiments.plan import Plan, Row
from experiments.presets import Preset
from repre.evaluation.comparison import Gain, gain

POINTS, AP, LOSS = 3.0, 2.0, -0.5
"""The branch shall gain so many points in the primary figure and in box AP, and lose no more than that elsewhere."""


@dataclass(frozen=True)
class Goal:
    """A figure and the least difference that it shall have."""

    figure: str
    least: float


def primary(preset: Preset) -> str:
    """What the preset's primary figure is called."""
    return next(iter(FIGURES[preset.primary].values()))


def goals(preset: Preset) -> list[Goal]:
    """What was aimed at; a preset with a primary figure of its own aims at the same gain in it."""
    boxes = FIGURES[Plan(preset).full[-1]]["box_ap"]
    dense = dict.fromkeys((primary(preset), FIGURES["miou"]["miou"]))
    return [*(Goal(figure, POINTS) for figure in dense), Goal(boxes, AP), Goal("k-NN", LOSS), Goal("linear", LOSS)]


def summary(preset: Preset, rows: list[Row], found: Results, results: Path) -> str:
    """Goals by pair, then the claims, as far as they are measured."""
    tables = {name: lines([row for row in rows if row.table == name], found) for name in {row.table for row in rows}}
    parts = [
        "### What the tables say\n",
        _goals(preset, tables["confirmatory"], tables["1"]),
        "The paper's claims:\n",
        *_claims(preset, rows, tables, training_notes(results / preset.name)),
    ]
    return "\n".join(parts)


def _goals(preset: Preset, confirmatory: list[Line], explored: list[Line]) -> str:
    wanted = goals(preset)
    heads = [f"{goal.figure}, at least {goal.least:+g}" for goal in wanted]
    text = [
        "The branch against the plain framework: mean difference in points, its interval, (over how many pairs of seeds), "
        "and the goal: *reached* or *missed* where the whole interval is, else *open*.\n",
        f"| with the branch | {' | '.join(heads)} |",
        f"|---|{'---|' * len(wanted)}",
    ]
    pairs: dict[str, dict[str, Line]] = {}
    for table, all_lines in (("confirmatory", confirmatory), ("exploratory", explored)):
        for line in all_lines:
            if line.row.against and line.row.label.endswith(" + branch"):
                name = f"{line.row.label.removesuffix(' + branch')}, {table}"
                pairs.setdefault(name, {})[line.figure] = line
    for name, figures in pairs.items():
        cells = [_cell(figures.get(goal.figure), goal) for goal in wanted]
        text.append(f"| {name} | {' | '.join(cells)} |")
    explored_pairs = [figures for name, figures in pairs.items() if name.endswith("exploratory")]
    cells = [
        _over_pairs([figures[goal.figure] for figures in explored_pairs if goal.figure in figures], goal)
        for goal in wanted
    ]
    text.append(
        f"| mean over the exploratory pairs of frameworks and encoders, interval over them | {' | '.join(cells)} |"
    )
    return "\n".join(text) + "\n"


def _cell(line: Line | None, goal: Goal) -> str:
    if line is None or line.gain is None:
        return "–"
    return f"{interval(line)} ({line.pairs}): {_judged(line.gain, goal)}"


def _judged(found: Gain, goal: Goal) -> str:
    if found.half is None or abs(found.mean - goal.least) < found.half:
        return "open"
    return "reached" if found.mean >= goal.least else "**missed**"


def _over_pairs(found: list[Line], goal: Goal) -> str:
    means = [line.gain.mean for line in found if line.gain is not None]
    if not means:
        return "–"
    pooled = over(means)
    return f"{in_words(pooled)} ({len(means)}): {_judged(pooled, goal)}"


def over(differences: Sequence[float]) -> Gain:
    """Differences as one, with the interval over them; each counts once."""
    return gain(differences, [0.0] * len(differences))


def interval(line: Line) -> str:
    """A difference in points with its interval, or in brackets where there is none; † where machines are mixed in it."""
    assert line.gain is not None
    return in_words(line.gain) + (" †" if line.mixed else "")


def in_words(found: Gain) -> str:
    """The same of a difference that is not of one line."""
    if found.half is None:
        return f"({found.mean:+.1f})"
    return f"{found.mean:+.1f} [{found.mean - found.half:+.1f}, {found.mean + found.half:+.1f}]"


def _claims(
    preset: Preset, rows: list[Row], tables: Mapping[str, list[Line]], notes: Mapping[tuple[str, int], dict[str, Any]]
) -> list[str]:
    figure = primary(preset)
    return [
        "- *1. Parallel to any contrastive framework; switched off it is that framework.* No figure: "
        "`tests/frameworks/test_contract.py` asks for both, bit for bit, of every framework.",
        f"- *2. Lightweight.* {_costs(rows, notes)}",
        f"- *3 and 4. Fuses several depths, and the hierarchy is crucial.* {figure} against the defaults (seeds): "
        f"{_differences(tables['2'], figure, ('without the branch', 'last level', 'two levels', 'linear decoder'))}.",
        f"- *5. Improves various frameworks with various transformers.* {_counted(tables['1'], figure)}",
        "- *6. Transfers better than supervised and self-supervised starts.* Others against RePre with MoCo v3 and a ViT, "
        "above 0 where they are better than it (seeds):\n",
        _versus(tables["3"]),
    ]


def _costs(rows: list[Row], notes: Mapping[tuple[str, int], dict[str, Any]]) -> str:
    """Shares of the decoder beside the encoder, and of its time, by the pairs of table 1."""
    told = []
    for row in rows:
        if row.table != "1" or not row.label.endswith(" + branch"):
            continue
        known = [notes[row.start.name, seed]["costs"] for seed in row.each_seed if (row.start.name, seed) in notes]
        if not known:
            continue
        parameters, operations = (
            known[0][f"decoder_{kind}"] / known[0][f"encoder_{kind}"] for kind in ("parameters", "flops")
        )
        longer = next(other.start.name for other in rows if other.start.as_long_as == row.start.name)
        ratios = [notes[longer, seed]["time_ratio"] for seed in row.each_seed if (longer, seed) in notes]
        seconds = f"{sum(ratios) / len(ratios) - 1:+.0%}" if ratios else "not measured"
        told.append(f"{row.label.removesuffix(' + branch')} {parameters:.0%}, {operations:.0%}, {seconds}")
    if not told:
        return "Not measured yet."
    return (
        "Its parameters and its forward operations beside the encoder's, and what it adds to the time of a step (short "
        f"trainings that take turns): {'; '.join(told)}."
    )


def _differences(all_lines: Sequence[Line], figure: str, labels: tuple[str, ...]) -> str:
    known = {line.row.label: line for line in all_lines if line.figure == figure and line.gain is not None}
    told = [f"{label} {_told(known[label])}" if label in known else f"{label} not measured" for label in labels]
    return "; ".join(told)


def _told(line: Line) -> str:
    assert line.gain is not None
    return f"{interval(line)} ({line.pairs})"


def _counted(all_lines: Sequence[Line], figure: str) -> str:
    """In how many pairs the branch gains, and in how many its interval says so."""
    known = [
        line.gain
        for line in all_lines
        if line.figure == figure and line.gain is not None and line.row.label.endswith(" + branch")
    ]
    if not known:
        return "Not measured yet."
    return (
        f"{figure} is higher with the branch in {sum(each.mean > 0 for each in known)} of {len(known)} pairs, by "
        f"{POINTS:g} points or more in {sum(each.mean >= POINTS for each in known)}; the interval over seeds excludes 0 in "
        f"{sum(each.verdict == 'better' for each in known)}."
    )


def _versus(all_lines: Sequence[Line]) -> str:
    known = [line for line in all_lines if line.gain is not None]
    return by_figure("start", known, _told) if known else "Not measured yet.\n"


def by_figure(corner: str, shown: Sequence[Line], cell: Callable[[Line], str]) -> str:
    """A table of these lines: a row for every start, a column for every figure, a dash where there is no line."""
    known = {(line.row.label, line.figure): line for line in shown}
    figures = list(dict.fromkeys(line.figure for line in shown))
    text = [f"| {corner} | {' | '.join(figures)} |", f"|---|{'---|' * len(figures)}"]
    for label in dict.fromkeys(line.row.label for line in shown):
        cells = (cell(known[label, name]) if (label, name) in known else "–" for name in figures)
        text.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(text) + "\n"
