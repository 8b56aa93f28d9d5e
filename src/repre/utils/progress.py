"""What a person sees while a run goes on: a live bar on a terminal, plain lines elsewhere."""

import sys
import time
from typing import Any

from tqdm import tqdm

SHOWN = {
    "loss": "loss {:.3f}",
    "contrastive": "contrastive {:.3f}",
    "pixel": "pixel {:.3f}",
    "lr": "lr {:.1e}",
    "images_per_s": "{:.0f} img/s",
    "data_wait": "data wait {:.0%}",
}
"""What is shown of a line of metrics, and how."""


class Progress:
    """Shows epoch, remaining time, images per second, the share of time spent waiting for data, losses, learning rate.

    Args:
        start, total: first and last step of what is shown.
        steps_per_epoch: to name the epoch.
        shown: only the main process shows anything.
    """

    def __init__(self, *, start: int, total: int, steps_per_epoch: int, shown: bool) -> None:
        self.total, self.steps_per_epoch, self.shown = total, steps_per_epoch, shown
        self.begun, self.start = time.monotonic(), start
        self.last_line = 0.0
        live = shown and sys.stderr.isatty()
        self.bar = tqdm(initial=start, total=total, unit="step", dynamic_ncols=True, smoothing=0.1) if live else None

    def update(self, step: int, row: dict[str, Any] | None) -> None:
        """After a step; `row` is the newest line of metrics, where there is one."""
        if self.bar is not None:
            self.bar.update(1)
        if row is None:
            return
        if self.bar is not None:
            self.bar.set_description(f"epoch {self._epoch(step)}", refresh=False)
            self.bar.set_postfix_str(_words(row))
        elif self.shown and (time.monotonic() - self.last_line > 5 or step == self.total):
            self.last_line = time.monotonic()
            rate = (time.monotonic() - self.begun) / max(1, step - self.start)
            left = _clock(rate * (self.total - step))
            print(f"step {step}/{self.total} epoch {self._epoch(step)} left {left} {_words(row)}", flush=True)

    def write(self, text: str) -> None:
        """A line of its own, above the bar."""
        if self.shown:
            tqdm.write(text) if self.bar is not None else print(text, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()

    def _epoch(self, step: int) -> str:
        return f"{-(-step // self.steps_per_epoch)}/{self.total // self.steps_per_epoch}"


def _words(row: dict[str, Any]) -> str:
    parts = []
    for name, value in row.items():
        if value is None or name not in SHOWN:
            continue
        parts.append(SHOWN[name].format(value))
    return " ".join(parts)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
