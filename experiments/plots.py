"""Pictures of the tables: bars of differences with their intervals, and curves over the share of labels.

Needs matplotlib, which `pip install 'repre[dev]'` brings.
"""

import re
from collections import Counter
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from experiments.analysis import Line

matplotlib.use("agg")
COLORS = ("#3b6ea5", "#c8553d", "#588157", "#8d6a9f", "#b08900", "#4a4e69")


def draw(lines: list[Line], path: Path, *, curves: bool = False) -> list[Path]:
    """Draws what there is to draw; gives the files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure = draw_curves(lines) if curves else draw_differences(lines)
    if figure is None:
        return []
    figure.savefig(path, dpi=110, metadata={"Software": ""})
    return [path]


def draw_differences(lines: list[Line]) -> Figure | None:
    """One panel per figure, one bar per start: the mean difference, and its interval where the seeds allow one. That of two
    seeds is wide and may leave the panel. Figures that fewer than half of the starts have are left to the table."""
    shown = [line for line in lines if line.gain is not None]
    others = {line.row.label: line.row.against for line in shown}
    labels = list(dict.fromkeys(line.row.label for line in shown))
    counts = Counter(line.figure for line in shown)
    names = [name for name, count in counts.items() if 2 * count >= len(labels)]
    if not names:
        return None
    height = 1.2 + 0.28 * len(labels)
    figure = Figure(figsize=(2.8 + 2.3 * len(names), height), layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for panel, name in zip(panels, names):
        for line in shown:
            if line.figure == name and line.gain is not None:
                place = labels.index(line.row.label)
                panel.barh(place, line.gain.mean, color=COLORS[0] if line.gain.mean >= 0 else COLORS[1], height=0.6)
                if line.gain.half is not None:
                    panel.errorbar(line.gain.mean, place, xerr=line.gain.half, color="black", capsize=3, linewidth=1)
        panel.set_xlim(*_limits([line for line in shown if line.figure == name]))
        panel.axvline(0, color="black", linewidth=0.8)
        panel.set_title(name, fontsize=9)
        panel.tick_params(labelsize=8)
        panel.set_xlabel("difference, points", fontsize=8)
    one = len(set(others.values())) == 1
    panels[0].set_yticks(range(len(labels)), [each if one else f"{each}\nagainst {others[each]}" for each in labels])
    if one:
        figure.suptitle(f"against {others[labels[0]]}", fontsize=9)
    panels[0].invert_yaxis()
    return figure


def _limits(lines: list[Line]) -> tuple[float, float]:
    """The range of all bars, and of the intervals of three seeds or more."""
    ends = [0.0]
    for line in lines:
        assert line.gain is not None
        half = line.gain.half if line.gain.half is not None and line.pairs > 2 else 0.0
        ends += [line.gain.mean - half, line.gain.mean + half]
    margin = 0.08 * (max(ends) - min(ends)) or 1.0
    return min(ends) - margin, max(ends) + margin


def draw_curves(lines: list[Line]) -> Figure | None:
    """One panel per figure: its mean over the share of labels, a curve for every start, points for the seeds."""
    points: dict[str, dict[str, list[tuple[float, list[float]]]]] = {}
    for line in lines:
        found = re.fullmatch(r"(.*), (\d+)% of the labels", line.figure)
        if found and line.values:
            curve = points.setdefault(found[1], {}).setdefault(line.row.label, [])
            curve.append((float(found[2]), list(line.values.values())))
    if not points:
        return None
    figure = Figure(figsize=(3.4 * len(points) + 1.8, 3.2), layout="constrained")
    for panel, (name, curves) in zip(figure.subplots(1, len(points), squeeze=False)[0], points.items()):
        for color, (label, curve) in zip(COLORS, curves.items()):
            curve.sort()
            shares = [share for share, _ in curve]
            panel.plot(shares, [sum(v) / len(v) for _, v in curve], color=color, marker="o", markersize=3, label=label)
            for share, v in curve:
                panel.plot([share] * len(v), v, ".", color=color, alpha=0.4)
        shares = sorted({share for curve in curves.values() for share, _ in curve})
        panel.set_xscale("log")
        panel.set_xticks(shares, [f"{share:g}" for share in shares], minor=False)
        panel.minorticks_off()
        panel.set_title(name, fontsize=9)
        panel.set_xlabel("labels, %", fontsize=8)
        panel.tick_params(labelsize=8)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8, frameon=False)
    return figure
