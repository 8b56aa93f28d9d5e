"""The curve of several checkpoints: main metric against epoch, as a table and as an SVG file with a line per run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from repre.evaluation.metric_units import describe_value
from repre.utils.io import write_atomically

SHA256 = 64
"""Digits of the hash of a weights file."""
WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 24, 40, 48
"""Size of the chart and its margins, in pixels."""
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#333}.grid{stroke:#ddd}.line{fill:none;stroke-width:2}"
    ".reference{stroke:#888;stroke-dasharray:5 4}"
)
COLORS = ("#1f6feb", "#bc4c00", "#1a7f37", "#8250df", "#bf3989", "#57606a")
"""Of the lines of several runs, in turn."""


@dataclass(frozen=True)
class Point:
    """The main metric of one encoder."""

    name: str
    """Name of the encoder, as the user gave it."""
    epoch: float | None
    """Epochs that its run had done; None for an encoder that belongs to no run."""
    value: float
    """The metric."""
    run: str = ""
    """The run that it belongs to: points of one run are one line."""
    weights: str = ""
    """Hash of the weights; empty if it is not known."""
    size: Any = None
    """Side, or height and width, of the images that the encoder saw; None if it is not known."""


def in_order(points: Sequence[Point]) -> list[Point]:
    """Points by epoch; those without an epoch come first, in the order given."""
    return sorted(points, key=lambda point: -1.0 if point.epoch is None else point.epoch)


def table(points: Sequence[Point], *, metric: str) -> list[str]:
    """The lines of a table of epochs, values and names."""
    lines = [f"  {'epoch':>7}  {metric:>10}  encoder"]
    for point in in_order(points):
        epoch = "-" if point.epoch is None else f"{point.epoch:.4g}"
        lines.append(f"  {epoch:>7}  {describe_value(metric, point.value):>10}  {point.name}")
    return [*lines, *remarks(points)]


def remarks(points: Sequence[Point]) -> list[str]:
    """What to know about the points: those of the same weights are one measurement, other sizes are other tasks."""
    lines, first = [], dict[str, str]()
    for point in points:
        if point.weights in first:
            lines.append(f"  {first[point.weights]} and {point.name} are the same weights")
        elif len(point.weights) == SHA256:
            first[point.weights] = point.name
    sizes = {str(point.size): point.name for point in points if point.size is not None}
    if len(sizes) > 1:
        named = ", ".join(f"{name} {size}" for size, name in sizes.items())
        lines.append(f"  images had different sizes in pixels ({named}); give --size to compare at one size")
    return lines


def write_curve(path: Path, points: Sequence[Point], *, title: str, metric: str) -> None:
    """Writes the line chart. Encoders without an epoch become dashed lines across it.

    Args:
        path: SVG file.
        points: at least one with an epoch.
        title, metric: texts above the chart.

    Raises:
        RunError: the file cannot be written.
    """
    drawn = [point for point in in_order(points) if point.epoch is not None]
    curve = [(point.epoch, point.value) for point in drawn if point.epoch is not None]
    runs = list(dict.fromkeys(point.run for point in drawn))
    references = [point for point in points if point.epoch is None]
    first, last = curve[0][0], curve[-1][0]
    ticks = _ticks([point.value for point in points])
    low, high = ticks[0], ticks[-1]

    def x(epoch: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * ((epoch - first) / (last - first) if last > first else 0.5)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">',
        f"<style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="22">{escape(title)}: {escape(metric)}</text>',
    ]
    for value in ticks:
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
            f'<text x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{describe_value(metric, value)}</text>'
        )
    shown = -math.inf
    for epoch in dict.fromkeys(epoch for epoch, _ in curve):
        if x(epoch) - shown >= 40:  # room for a number
            shown = x(epoch)
            parts.append(f'<text x="{shown:.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{epoch:.4g}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">epoch</text>')
    for point in references:
        height = y(point.value)
        parts.append(
            f'<line class="reference" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>'
            f'<text x="{WIDTH - RIGHT}" y="{height - 5:.1f}" text-anchor="end">{escape(point.name)}</text>'
        )
    for number, run in enumerate(runs):
        color = COLORS[number % len(COLORS)]
        mine = [(point.epoch, point.value) for point in drawn if point.run == run and point.epoch is not None]
        corners = " ".join(f"{x(epoch):.1f},{y(value):.1f}" for epoch, value in mine)
        parts.append(f'<polyline class="line" stroke="{color}" points="{corners}"/>')
        name = f"{run}, " if len(runs) > 1 else ""
        for epoch, value in mine:
            tip = escape(f"{name}epoch {epoch:.4g}: {describe_value(metric, value)}")
            parts.append(
                f'<circle fill="{color}" cx="{x(epoch):.1f}" cy="{y(value):.1f}" r="4"><title>{tip}</title></circle>'
            )
        if len(runs) > 1:
            end = f'x="{x(mine[-1][0]):.1f}" y="{y(mine[-1][1]) - 8:.1f}"'
            parts.append(f'<text {end} text-anchor="end" style="fill:{color}">{escape(run)}</text>')
    content = "\n".join([*parts, "</svg>\n"])
    write_atomically(path, lambda file: file.write(content.encode()))


def _ticks(values: Sequence[float]) -> list[float]:
    """Four to nine round numbers around all values."""
    low, high = min(values), max(values)
    spread = (high - low) or abs(high) * 0.1 or 1.0
    magnitude = 10.0 ** math.floor(math.log10(spread / 4))
    step = next(magnitude * factor for factor in (1, 2, 5, 10) if spread / (magnitude * factor) <= 6)
    start, end = math.floor(low / step), math.ceil(high / step)
    return [number * step for number in range(start, max(end, start + 1) + 1)]
