"""Everything that a run writes and prints while it trains: messages, metrics, trackers, the progress bar."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from repre.config import RunConfig
from repre.config_values import to_dict
from repre.models.repre import RePre
from repre.training.failure_record import forget_failure
from repre.training.monitoring.step_metrics import WeightChange, step_metrics
from repre.training.run_folder import RunFolder
from repre.training.step import StepResult
from repre.training.trackers import Tracker, open_trackers
from repre.utils.dist import is_main_process, mean_over_ranks
from repre.utils.printable_text import printable_lines
from repre.utils.progress import Progress


class RunLog:
    """Writes to the run folder, the terminal and the trackers; does nothing on other processes than the main one."""

    def __init__(self, config: RunConfig, folder: RunFolder) -> None:
        self.config, self.folder = config, folder
        self.progress: Progress | None = None
        self.trackers: list[Tracker] = []

    def open_trackers(self, *, step: int) -> None:
        """Opens TensorBoard and the trackers of the config; `step` is the first one that will be logged."""
        if is_main_process():
            self.trackers = open_trackers(
                self.config.runtime.trackers,
                self.folder.tensorboard,
                run=self.folder.path,
                start=step,
                config=to_dict(self.config),
            )

    def start_progress(self, *, step: int, total: int, steps_per_epoch: int) -> None:
        self.folder.step, self.folder.total_steps = step, total
        if is_main_process():
            forget_failure(self.folder.path)  # the run goes on; should it fail again, it says so anew
        self.progress = Progress(start=step, total=total, steps_per_epoch=steps_per_epoch, enabled=is_main_process())

    def update_progress(self, step: int, row: dict[str, Any] | None) -> None:
        """Moves the progress bar; `row` is the newest row of metrics, if there is one."""
        self.folder.step = step
        if self.progress is not None:
            self.progress.update(step, row)

    def message(self, text: str | None) -> None:
        """A line in log.txt and on the terminal; nothing for None."""
        if text is not None and is_main_process():
            text = printable_lines(text).encode("utf-8", "backslashreplace").decode()  # file names may not be UTF-8
            self.folder.append_log(text)
            if self.progress is not None:
                self.progress.write(text)
            else:
                print(text, flush=True)

    def metrics(self, row: dict[str, Any], *, step: int) -> None:
        """A row of metrics.jsonl and of every tracker."""
        if is_main_process():
            self.folder.append_metrics(row)
            for tracker in self.trackers:
                tracker.log(row, step=step)

    def validation(self, metrics: dict[str, Any], *, step: int) -> None:
        """The metrics of a validation, for the trackers; the checkpoint keeps them otherwise."""
        named = {f"validation/{name}": value for name, value in metrics.items() if value is not None and name != "step"}
        for tracker in self.trackers:
            tracker.log(named, step=step)

    def close(self) -> None:
        if self.progress is not None:
            self.progress.close()
        for tracker in self.trackers:
            tracker.close()


def metrics_row(
    model: RePre, result: StepResult, *, step: int, steps_per_epoch: int, change: WeightChange | None
) -> dict[str, Any]:
    """The metrics of a step, averaged over ranks in one reduction; a collective call.

    Args:
        step: steps that are done.
        change: measures how far the step moved the weights, if that is to be logged.
    """
    losses = result.losses
    values: dict[str, Tensor] = {} if model.framework.needs.branch else {"contrastive": losses.contrastive}
    if losses.pixel is not None:
        values["pixel"] = losses.pixel
    values |= step_metrics(losses.output)
    means = mean_over_ranks(torch.stack([value.detach().float() for value in values.values()]))
    row = {"step": step, "epoch": round(step / steps_per_epoch, 4), "loss": result.loss}
    row |= dict(zip(values, means.tolist())) | {"grad_norm": result.grad_norm, "lr": result.lr}
    if change is not None:
        row |= {name: float(value) for name, value in change.metrics().items()}
    return row


class Throughput:
    """Images per second and the share of time spent waiting for data, between two readings.

    Time inside `paused` (validation, saving) does not count.

    Args:
        batch_size: images of a step.
        step: steps that are done.
        peak_images_per_s: images per second if the devices only multiplied matrices, at their peak; None if that is not
            known. With it the readings have the model FLOPs utilization (MFU, Chowdhery et al. 2022, arXiv 2204.02311).
    """

    def __init__(self, *, batch_size: int, step: int, peak_images_per_s: float | None = None) -> None:
        self.batch_size, self.peak_images_per_s = batch_size, peak_images_per_s
        self.waited = self.total_waited = 0.0
        self.since, self.step = time.monotonic(), step

    def add_wait(self, seconds: float) -> None:
        """Counts time that was spent waiting for a batch."""
        self.waited += seconds
        self.total_waited += seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        begin = time.monotonic()
        try:
            yield
        finally:
            self.since += time.monotonic() - begin

    def read(self, step: int) -> dict[str, float]:
        """The rates since the last reading, after `step` steps in all."""
        now = time.monotonic()
        seconds = max(now - self.since, 1e-9)
        rates = {
            "images_per_s": (step - self.step) * self.batch_size / seconds,
            "data_wait": min(1.0, self.waited / seconds),
        }
        if self.peak_images_per_s is not None:
            rates["mfu"] = rates["images_per_s"] / self.peak_images_per_s
        self.since, self.step, self.waited = now, step, 0.0
        return rates
