"""Plots of the tables: bars of differences with their intervals, and curves over the label fraction.

Needs matplotlib, which `pip install 'repre[dev]'` installs.
"""

import re
from collections import Counter
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from experiments.analysis import Entry

matplotlib.use("agg")
COLORS = ("#3b6ea5", "#c8553d", "#588157", "#8d6a9f", "#b08900", "#4a4e69")


def save_plot(entries: list[Entry], path: Path, *, curves: bool = False) -> bool:
    """Plots the entries of a table as a PNG file; returns False if there is nothing to plot.

    Args:
        curves: plot curves over the label fraction instead of bars.
    """
    figure = plot_curves(entries) if curves else plot_differences(entries)
    if figure is None:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": ""})
    return True


def plot_differences(entries: list[Entry]) -> Figure | None:
    """Plots one panel per metric and one bar per method: the mean difference, with its interval if there is one.

    The interval of two seeds is wide and may leave the panel. Metrics that fewer than half of the methods have are left
    out.
    """
    entries = [entry for entry in entries if entry.gain is not None]
    baselines = {entry.row.label: entry.row.baseline for entry in entries}
    labels = list(baselines)
    counts = Counter(entry.metric for entry in entries)
    metrics = [metric for metric, count in counts.items() if 2 * count >= len(labels)]
    if not metrics:
        return None
    height = 1.2 + 0.28 * len(labels)
    figure = Figure(figsize=(2.8 + 2.3 * len(metrics), height), layout="constrained")
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for panel, metric in zip(panels, metrics):
        in_panel = [entry for entry in entries if entry.metric == metric]
        for entry in in_panel:
            assert entry.gain is not None
            mean, half, bar = entry.gain.mean, entry.gain.half, labels.index(entry.row.label)
            panel.barh(bar, mean, color=COLORS[0] if mean >= 0 else COLORS[1], height=0.6)
            if half is not None:
                panel.errorbar(mean, bar, xerr=half, color="black", capsize=3, linewidth=1)
        panel.set_xlim(*_limits(in_panel))
        panel.axvline(0, color="black", linewidth=0.8)
        panel.set_title(metric, fontsize=9)
        panel.tick_params(labelsize=8)
        panel.set_xlabel("difference, points", fontsize=8)
    one_baseline = len(set(baselines.values())) == 1
    ticks = [label if one_baseline else f"{label}\nagainst {baselines[label]}" for label in labels]
    panels[0].set_yticks(range(len(labels)), ticks)
    if one_baseline:
        figure.suptitle(f"against {baselines[labels[0]]}", fontsize=9)
    panels[0].invert_yaxis()
    return figure


def _limits(entries: list[Entry]) -> tuple[float, float]:
    """Range of the x axis: all bars, and the intervals of three seeds or more."""
    ends = [0.0]
    for entry in entries:
        assert entry.gain is not None
        half = entry.gain.half if entry.gain.half is not None and entry.pairs > 2 else 0.0
        ends += [entry.gain.mean - half, entry.gain.mean + half]
    margin = 0.08 * (max(ends) - min(ends)) or 1.0
    return min(ends) - margin, max(ends) + margin


def plot_curves(entries: list[Entry]) -> Figure | None:
    """Plots one panel per metric over the label fraction: a curve of means per method, and a point per seed."""
    curves: dict[str, dict[str, list[tuple[float, list[float]]]]] = {}
    for entry in entries:
        match = re.fullmatch(r"(.*), (\d+)% of the labels", entry.metric)
        if match and entry.values:
            curve = curves.setdefault(match[1], {}).setdefault(entry.row.label, [])
            curve.append((float(match[2]), list(entry.values.values())))
    if not curves:
        return None
    figure = Figure(figsize=(3.4 * len(curves) + 1.8, 3.2), layout="constrained")
    for panel, (metric, by_label) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items()):
        for color, (label, curve) in zip(COLORS, by_label.items()):
            curve.sort()
            percents, means = [percent for percent, _ in curve], [sum(values) / len(values) for _, values in curve]
            panel.plot(percents, means, color=color, marker="o", markersize=3, label=label)
            for percent, values in curve:
                panel.plot([percent] * len(values), values, ".", color=color, alpha=0.4)
        ticks = sorted({percent for curve in by_label.values() for percent, _ in curve})
        panel.set_xscale("log")
        panel.set_xticks(ticks, [f"{percent:g}" for percent in ticks], minor=False)
        panel.minorticks_off()
        panel.set_title(metric, fontsize=9)
        panel.set_xlabel("labels, %", fontsize=8)
        panel.tick_params(labelsize=8)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8, frameon=False)
    return figure
