"""Training progress on the terminal: a live bar, or plain lines where the output is not a terminal."""

import sys
import time
from typing import Any

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 5
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


class Progress:
    """Prints the epoch, the remaining time and the newest metrics.

    Args:
        start, total: first and last step.
        steps_per_epoch: to compute the epoch.
        enabled: False prints nothing, for processes other than the main one.
    """

    def __init__(self, *, start: int, total: int, steps_per_epoch: int, enabled: bool = True) -> None:
        self._start, self._total, self._steps_per_epoch, self._enabled = start, total, steps_per_epoch, enabled
        self._started_at = time.monotonic()
        self._printed_at = 0.0
        self._bar = None
        if enabled and sys.stderr.isatty():
            self._bar = tqdm(initial=start, total=total, unit="step", dynamic_ncols=True, smoothing=0.1)

    def update(self, step: int, metrics: dict[str, Any] | None) -> None:
        """Records a step; `metrics` is the newest row of metrics, None for a step without one."""
        if self._bar is not None:
            self._bar.update(1)
            if metrics is not None:
                self._bar.set_description(f"epoch {self._epoch(step)}", refresh=False)
                self._bar.set_postfix_str(_format_metrics(metrics))
        elif self._enabled and metrics is not None:
            now = time.monotonic()
            if now - self._printed_at > SECONDS_BETWEEN_LINES or step == self._total:
                self._printed_at = now
                seconds_per_step = (now - self._started_at) / max(1, step - self._start)
                remaining = _format_duration(seconds_per_step * (self._total - step))
                counts = f"step {step}/{self._total} epoch {self._epoch(step)} left {remaining}"
                print(f"{counts} {_format_metrics(metrics)}", flush=True)

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

    def _epoch(self, step: int) -> str:
        return f"{-(-step // self._steps_per_epoch)}/{self._total // self._steps_per_epoch}"


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
