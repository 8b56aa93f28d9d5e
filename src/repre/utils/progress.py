"""Progress on the terminal: a live bar that never wraps, or plain lines now and then where the output is not a terminal."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")

SECONDS_BETWEEN_LINES = 5
"""Time between two lines about a training in a file."""
FIRST_COUNT_SECONDS, MOST_COUNT_SECONDS = 5.0, 60.0
"""Time before the first line that `ItemCount` writes into a file, and the most between two; it doubles from line to line."""
METRIC_FORMATS = {
    "loss": "loss {:.3f}",
    "contrastive": "contrastive {:.3f}",
    "pixel": "pixel {:.3f}",
    "lr": "lr {:.1e}",
    "images_per_s": "{:.0f} img/s",
    "mfu": "{:.0%} MFU",
    "data_wait": "data wait {:.0%}",
}
"""The metrics to print, and their formats; `data_wait` is the share of the time spent waiting for data."""
FIELDS = ("epoch", "percent", "count", "left", "images_per_s", "data_wait", "loss", "contrastive", "pixel", "lr", "mfu")
"""What the bar of a training shows, from left to right."""
PRIORITIES = (
    "left",
    "images_per_s",
    "data_wait",
    "percent",
    "epoch",
    "loss",
    "count",
    "contrastive",
    "pixel",
    "lr",
    "mfu",
)
"""The same, from what even a narrow terminal shows to what only a wide one does."""
SMALLEST_BAR = 8
"""Columns below which the line goes without a drawn bar."""


class Progress:
    """Prints the epoch, the remaining time and the newest metrics of a training.

    Args:
        start, total: first and last step.
        steps_per_epoch: to compute the epoch.
        enabled: False prints nothing, for processes other than the main one.
    """

    def __init__(self, *, start: int, total: int, steps_per_epoch: int, enabled: bool = True) -> None:
        self._total, self._steps_per_epoch, self._enabled = total, steps_per_epoch, enabled
        self._first: tuple[int, float] | None = None
        self._printed_at = 0.0
        self._metrics: dict[str, Any] = {}
        self._bar = None
        if enabled and sys.stderr.isatty():
            self._bar = tqdm(initial=start, total=total, bar_format="{desc}", dynamic_ncols=True)

    def update(self, step: int, metrics: dict[str, Any] | None) -> None:
        """Records a step; `metrics` is the newest row of metrics, None for a step without one."""
        self._first = self._first or (step, time.monotonic())
        if self._bar is not None:
            self._metrics = self._metrics if metrics is None else metrics
            line, room = _fit(self._fields(step), _columns())
            self._bar.bar_format = "{desc} |{bar}|" if room >= SMALLEST_BAR else "{desc}"
            self._bar.set_description_str(line, refresh=False)
            self._bar.update(1)
        elif self._enabled and metrics is not None:
            now = time.monotonic()
            if now - self._printed_at > SECONDS_BETWEEN_LINES or step == self._total:
                self._printed_at = now
                fields = self._fields(step)
                counts = f"step {fields['count']} {fields['epoch']} {fields['left']}"
                print(f"{counts} {_format_metrics(metrics)}", flush=True)

    def _left(self, step: int) -> str:
        """The remaining time at the speed of all steps but the first, which compiles and fills caches; "?" before."""
        first, since = self._first or (step, 0.0)
        if step == self._total:
            return _format_duration(0.0)
        if step == first:
            return "?"
        return _format_duration((time.monotonic() - since) / (step - first) * (self._total - step))

    def write(self, text: str) -> None:
        """Prints a line, above the bar if there is one."""
        if self._bar is not None:
            tqdm.write(text)
        elif self._enabled:
            print(text, flush=True)

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()

    def _fields(self, step: int) -> dict[str, str]:
        """The texts of the line by field; metrics that are not known are missing."""
        fields = {
            "epoch": f"epoch {-(-step // self._steps_per_epoch)}/{self._total // self._steps_per_epoch}",
            "percent": f"{100 * step // self._total}%",
            "count": f"{step}/{self._total}",
            "left": f"left {self._left(step)}",
        }
        known = (name for name in METRIC_FORMATS if self._metrics.get(name) is not None)
        return fields | {name: METRIC_FORMATS[name].format(self._metrics[name]) for name in known}


class ItemCount:
    """Counts the items of a step of an evaluation: a bar that vanishes at its end, or lines with counts in a file.

    Use it as a context manager. Only the first process of several prints.

    Args:
        description: what happens, in one or two words.
        total: number of items.
        unit: name of an item.
        initial: items that were done before.
        keep: whether the finished bar stays on the terminal.
    """

    def __init__(
        self, description: str, *, total: int | None, unit: str = "image", initial: int = 0, keep: bool = False
    ) -> None:
        self._description, self._total, self._unit, self._count = description, total, unit, initial
        self._enabled = os.environ.get("RANK", "0") == "0"
        self._started_at = self._printed_at = time.monotonic()
        self._pause = FIRST_COUNT_SECONDS
        self._initial = initial
        self._bar = None
        if self._enabled and sys.stderr.isatty():
            settings: Any = {"desc": description, "total": total, "unit": f" {unit}", "initial": initial, "leave": keep}
            self._bar = tqdm(**settings, dynamic_ncols=True, delay=0 if keep else 0.5)

    def update(self, count: int = 1) -> None:
        """Counts further items."""
        self._count += count
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(count)
        elif self._enabled and now - self._printed_at > self._pause:
            self._printed_at, self._pause = now, min(2 * self._pause, MOST_COUNT_SECONDS)
            print(self._line(now - self._started_at), file=sys.stderr, flush=True)

    def __enter__(self) -> "ItemCount":
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def _line(self, seconds: float) -> str:
        """Such as ``embed: 512/2048 images, left 1:02``."""
        if self._total is None:
            return f"{self._description}: {self._count} {self._unit}s"
        done = self._count - self._initial
        left = _format_duration(seconds / max(1, done) * (self._total - self._count))
        return f"{self._description}: {self._count}/{self._total} {self._unit}s, left {left}"


def track(
    items: Iterable[T], description: str, *, total: int | None, unit: str = "image", initial: int = 0
) -> Iterator[T]:
    """Yields items and counts each when the next one is asked for; see `ItemCount`."""
    with ItemCount(description, total=total, unit=unit, initial=initial) as counter:
        for item in items:
            yield item
            counter.update()


def _columns() -> int:
    """Columns that a line on the terminal may take: one less than there are, since some wrap after the last."""
    try:
        return (os.get_terminal_size(sys.stderr.fileno()).columns or 80) - 1
    except (OSError, ValueError, AttributeError):  # not a real terminal
        return 79


def _fit(fields: dict[str, str], columns: int) -> tuple[str, int]:
    """The line of the most important fields that fit into so many columns, and the columns that remain for a bar."""
    chosen: list[str] = []
    for name in PRIORITIES:
        if name in fields and len(" ".join(fields[kept] for kept in [*chosen, name])) <= columns:
            chosen.append(name)
    line = " ".join(fields[name] for name in FIELDS if name in chosen)
    return line, columns - len(line) - len(" ||")


def _format_metrics(metrics: dict[str, Any]) -> str:
    return " ".join(
        METRIC_FORMATS[name].format(value)
        for name, value in metrics.items()
        if name in METRIC_FORMATS and value is not None
    )


def _format_duration(seconds: float) -> str:
    """Hours, minutes and seconds, such as 1:02:03 or 2:03."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
