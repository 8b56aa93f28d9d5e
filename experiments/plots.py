"""Plots of the evidence: the picture of the answer, bars of differences with their intervals, curves over the labels.

A difference of fewer than three pairs looks uncertain everywhere: a hollow marker without a bar.

Needs matplotlib, which `pip install 'repre[dev]'` installs.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from experiments.analysis import Entry
from experiments.answer import FAMILIES, PictureRow, family
from experiments.comparisons import IMAGE_METRICS, SHARE
from repre.evaluation.gains import Gain

matplotlib.use("agg")
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#333333")
"""Colors that color-blind readers can tell apart (Okabe and Ito); markers differ too."""
MARKERS = "osD"
"""Markers of curves; the next one begins where the colors are used up."""
STYLES = dict(zip((*FAMILIES, *IMAGE_METRICS), zip("osD^vPX", (*COLORS[:4], COLORS[5], "#56b4e9", COLORS[4]))))
"""Metric in the picture -> marker and color."""
BANDS = ("white", "0.94")
"""Backgrounds of the rows of the picture, in turn."""
CERTAIN_PAIRS = 3
"""Fewest pairs of which an interval is drawn."""


def save_plot(entries: list[Entry], path: Path, *, curves: bool = False) -> bool:
    """Plots the entries of a table as a PNG file; returns False if there is nothing to plot.

    Args:
        curves: plot curves over the label fraction instead of differences.
    """
    return save(plot_curves(entries) if curves else plot_differences(entries), path, dpi=110)


def save(figure: Figure | None, path: Path, *, dpi: int) -> bool:
    """Writes a figure as a PNG file; returns False if there is none."""
    if figure is None:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi, metadata={"Software": ""})
    return True


def is_certain(difference: Gain) -> bool:
    """Whether a difference has enough pairs for a filled marker with its interval."""
    return difference.half is not None and difference.pairs >= CERTAIN_PAIRS


def plot_answer(rows: Sequence[PictureRow]) -> Figure | None:
    """Plots the picture of the answer: a row per data set and start, dense metrics on the left, whole images on the right.

    It is small in inches, so that the text stays readable where the picture is shrunk to the width of a phone.
    """
    if not rows:
        return None
    figure = Figure(figsize=(4.8, 1.25 + 0.42 * len(rows)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, is_dense in zip(panels, (True, False)):
        for index, row in enumerate(rows):
            chosen = [each for each in row.found if each.is_dense == is_dense]
            for place, each in enumerate(chosen):
                name = (family(each) or "") if is_dense else each.metric
                marker, color = STYLES[name]
                height = index + 0.15 + 0.3 * ((place + 0.5) / len(chosen) - 0.5)
                draw_difference(panel, each.gain, height, marker=marker, color=color)
            panel.axhspan(index - 0.5, index + 0.5, color=BANDS[index % 2], zorder=0, linewidth=0)
        panel.axvline(0, color="black", linewidth=0.8, zorder=1)
        panel.set_xlim(*_limits([each.gain for row in rows for each in row.found if each.is_dense == is_dense]))
        panel.set_ylim(len(rows) - 0.5, -0.5)
        panel.set_yticks([])
        panel.tick_params(labelsize=8)
        panel.spines[["left", "right", "top"]].set_visible(False)
        panel.set_title("dense features" if is_dense else "whole images", fontsize=9, fontweight="bold")
        panel.set_xlabel("← worse    points    better →", fontsize=8)
        panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    panels[0].set_zorder(1)  # its titles reach over the other panel
    panels[0].patch.set_visible(False)
    for index, row in enumerate(rows):
        panels[0].text(
            0.0, index - 0.45, row.title, transform=panels[0].get_yaxis_transform(), fontsize=7.5, va="top", zorder=4,
            in_layout=False, bbox={"facecolor": BANDS[index % 2], "linewidth": 0, "pad": 0.8},
        )  # fmt: skip
    shown = {(family(each) or "") if each.is_dense else each.metric for row in rows for each in row.found}
    handles = [
        Line2D([], [], linestyle="", marker=marker, color=color, markersize=5, label=name)
        for name, (marker, color) in STYLES.items()
        if name in shown
    ]
    handles.append(
        Line2D([], [], linestyle="", marker="o", color="0.3", markersize=5, mfc="white", label="1 or 2 seeds")
    )
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=7.5, frameon=False, handletextpad=0.1)
    return figure


def draw_difference(panel: Axes, difference: Gain, height: float, *, marker: str, color: str) -> None:
    """Draws a difference as a filled marker with its 95 % interval, or as a hollow one without."""
    certain = is_certain(difference)
    if certain:
        panel.errorbar(difference.mean, height, xerr=difference.half, color=color, capsize=2, linewidth=1.2, zorder=2)
    face = color if certain else "white"
    panel.plot(difference.mean, height, marker, color=color, mfc=face, markersize=5, markeredgewidth=1.2, zorder=3)


def plot_differences(entries: list[Entry]) -> Figure | None:
    """Plots one panel per metric and one row per method: the mean difference.

    Metrics that fewer than half of the methods have are left out.
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
        gains = [(labels.index(each.row.label), each.gain) for each in entries if each.metric == metric and each.gain]
        for index, difference in gains:
            color = COLORS[0] if difference.mean >= 0 else COLORS[1]
            if is_certain(difference):
                panel.barh(index, difference.mean, color=color, height=0.6)
                panel.errorbar(difference.mean, index, xerr=difference.half, color="black", capsize=3, linewidth=1)
            else:
                draw_difference(panel, difference, index, marker="o", color=color)
        panel.set_xlim(*_limits([difference for _, difference in gains]))
        panel.axvline(0, color="black", linewidth=0.8)
        panel.set_title(metric, fontsize=9)
        panel.tick_params(labelsize=8)
        panel.set_xlabel("difference, points", fontsize=8)
    one_baseline = len(set(baselines.values())) == 1
    ticks = [label if one_baseline else f"{label}\nagainst {baselines[label]}" for label in labels]
    panels[0].set_yticks(range(len(labels)), ticks)
    panels[0].set_ylim(len(labels) - 0.5, -0.5)
    if one_baseline:
        figure.suptitle(f"against {baselines[labels[0]]}", fontsize=9)
    return figure


def _limits(gains: Sequence[Gain]) -> tuple[float, float]:
    """Range of the x axis: all means, and the intervals that are drawn."""
    ends = [0.0]
    for each in gains:
        half = each.half if each.half is not None and is_certain(each) else 0.0
        ends += [each.mean - half, each.mean + half]
    margin = 0.08 * (max(ends) - min(ends)) or 1.0
    return min(ends) - margin, max(ends) + margin


def plot_curves(entries: list[Entry]) -> Figure | None:
    """Plots one panel per metric over the number of labels: a curve of means per method, and a point per seed.

    A mean of one seed is hollow, and a curve of such means only is dotted.
    """
    curves: dict[str, dict[str, list[tuple[float, list[float]]]]] = {}
    for entry in entries:
        match = SHARE.search(entry.metric)
        if match and entry.values:
            unit = "labels, %" if match[2].startswith("%") else "masks"
            name = f"{entry.metric[: match.start()]}\n{unit}"
            curve = curves.setdefault(name, {}).setdefault(entry.row.label, [])
            curve.append((float(match[1]), list(entry.values.values())))
    if not curves:
        return None
    figure = Figure(figsize=(3.4 * len(curves) + 1.8, 3.2), layout="constrained")
    labels = list(dict.fromkeys(label for by_label in curves.values() for label in by_label))
    handles: dict[str, Any] = {}
    for panel, (metric, by_label) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items()):
        for label, curve in by_label.items():
            again, index = divmod(labels.index(label), len(COLORS))
            color, marker = COLORS[index], MARKERS[again % len(MARKERS)]
            curve.sort()
            percents, means = [percent for percent, _ in curve], [sum(values) / len(values) for _, values in curve]
            single = all(len(values) == 1 for _, values in curve)
            style: dict[str, Any] = {"linestyle": ":", "mfc": "white"} if single else {}
            line = panel.plot(percents, means, color=color, marker=marker, markersize=4, label=label, **style)
            handles.setdefault(label, line[0])
            for percent, values in curve:
                if len(values) > 1:
                    panel.plot([percent] * len(values), values, ".", color=color, alpha=0.4)
                else:
                    panel.plot(percent, values, marker, color=color, mfc="white", markersize=4)
        ticks = sorted({percent for curve in by_label.values() for percent, _ in curve})
        panel.set_xscale("log")
        panel.set_xticks(ticks, [f"{percent:g}" for percent in ticks], minor=False)
        panel.minorticks_off()
        title, unit = metric.split("\n")
        panel.set_title(title, fontsize=9)
        panel.set_xlabel(unit, fontsize=8)
        panel.tick_params(labelsize=8)
    figure.legend(list(handles.values()), list(handles), loc="outside right upper", fontsize=8, frameon=False)
    return figure
