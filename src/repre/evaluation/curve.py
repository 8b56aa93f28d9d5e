"""The curve of several checkpoints: their main metric against the epoch, as a table and as an SVG file."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from repre.evaluation.metric_units import describe_value
from repre.utils.io import write_atomically

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 24, 40, 48
"""Size of the chart and its margins, in pixels."""
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#333}.grid{stroke:#ddd}.line{fill:none;stroke:#1f6feb;stroke-width:2}"
    ".point{fill:#1f6feb}.reference{stroke:#888;stroke-dasharray:5 4}"
)


@dataclass(frozen=True)
class Point:
    """The main metric of one encoder."""

    name: str
    """Name of the encoder, as the user gave it."""
    epoch: float | None
    """Epochs that its run had done; None for an encoder that belongs to no run."""
    value: float
    """The metric."""


def in_order(points: Sequence[Point]) -> list[Point]:
    """Points by epoch; those without an epoch come first, in the order given."""
    return sorted(points, key=lambda point: -1.0 if point.epoch is None else point.epoch)


def table(points: Sequence[Point], *, metric: str) -> list[str]:
    """The lines of a table of epochs, values and names."""
    lines = [f"  {'epoch':>7}  {metric:>10}  encoder"]
    for point in in_order(points):
        epoch = "-" if point.epoch is None else f"{point.epoch:.4g}"
        lines.append(f"  {epoch:>7}  {describe_value(metric, point.value):>10}  {point.name}")
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
    curve = [(point.epoch, point.value) for point in in_order(points) if point.epoch is not None]
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
    parts.append(f'<polyline class="line" points="{" ".join(f"{x(e):.1f},{y(v):.1f}" for e, v in curve)}"/>')
    for epoch, value in curve:
        tip = f"epoch {epoch:.4g}: {describe_value(metric, value)}"
        parts.append(
            f'<circle class="point" cx="{x(epoch):.1f}" cy="{y(value):.1f}" r="4"><title>{tip}</title></circle>'
        )
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
