"""A trial of half a minute before a run: what fits, how fast it is, what limits it, and how long the run will take.

Two things are measured: how many images one process decodes per second (on the CPU it makes their views too), and whole
training steps on real images, in the largest pieces that fit.
"""

import math
import time
from dataclasses import dataclass, replace

import numpy as np
import torch

from repre.config import RunConfig
from repre.data.io.decode import UnreadableImage
from repre.data.io.sources import Source
from repre.data.loading.loader import stack
from repre.data.loading.order import RunOrder, check_batch
from repre.data.loading.resident import planned_bytes
from repre.data.views.render import make_views
from repre.data.views.view_recipes import MaskConfig
from repre.errors import UserError, counted
from repre.training.trials import Trial, run_trials
from repre.types import Batch
from repre.utils.device import pick_device, pick_workers


@dataclass(frozen=True)
class Plan:
    """The measurements, and what they mean for the run.

    Attributes:
        chosen: the fastest trial that fits.
        decode_per_s: images that one process decodes per second.
        workers: processes that keep up with the step, at most the processor's cores less one.
        images_per_s: what the whole run will reach: the slower of step and decoding.
        limit: what limits it.
        hours: of the config's epochs.
        epochs: of the config, or as many as `max_hours` allow.
        resident_gib: what all images take in the memory of the device; 0 if the run does not keep them there.
    """

    config: RunConfig
    device: str
    trials: tuple[Trial, ...]
    chosen: Trial
    decode_per_s: float
    workers: int
    images_per_s: float
    limit: str
    images: int
    hours: float
    hours_per_100_epochs: float
    epochs: int
    resident_gib: float = 0.0

    @property
    def options(self) -> list[str]:
        """The options to add to `repre pretrain`."""
        chosen = self.chosen
        options = [f"--runtime.workers {self.workers}", f"--compute.precision {chosen.precision}"]
        in_pieces = chosen.micro_batch < self.config.batch_size
        if in_pieces or self.config.compute.micro_batch != "auto":
            options.append(f"--compute.micro-batch {chosen.micro_batch if in_pieces else 0}")
        if chosen.compile:
            options.append("--compute.compile on")
        if chosen.grad_checkpointing:
            options.append("--encoder.grad-checkpointing")
        if self.epochs != self.config.epochs:
            options.append(f"--epochs {self.epochs}")
        return options

    def __str__(self) -> str:
        """The plan for people."""
        lines = [f"{self.images} images, batch {self.config.batch_size}, on {self.device}"]
        for trial in self.trials:
            parts = [
                f"micro-batch {trial.micro_batch}" if trial.micro_batch < self.config.batch_size else "whole batch"
            ]
            parts.append(trial.precision)
            if trial.compile:
                parts.append("compiled")
            if trial.grad_checkpointing:
                parts.append("gradient checkpointing")
            if trial.images_per_s is not None:
                measured = f"{trial.images_per_s:.0f} images/s, peak {trial.memory_gib:.1f} GiB"
            else:
                measured = "does not fit"
            lines.append(f"  {', '.join(parts):44} {measured}{'  <- chosen' if trial is self.chosen else ''}")
        if self.chosen.heads_gib is not None:
            lines.append(f"  heads and loss keep {self.chosen.heads_gib:.2f} GiB of the whole batch at any micro-batch")
        if self.resident_gib:
            lines.append(f"  all images stay in the memory of the device ({self.resident_gib:.2f} GiB), decoded once")
        lines += [
            f"  decoding: {self.decode_per_s:.0f} images/s per process, {counted(self.workers, 'process')}",
            f"expected: {self.images_per_s:.0f} images/s, limited by {self.limit}",
            f"{self.hours_per_100_epochs:.2f} hours per 100 epochs; {self.epochs} epochs take {self.hours:.2f} hours",
            "add: " + " ".join(self.options),
        ]
        return "\n".join(lines)


def plan(config: RunConfig, *, seconds: float = 30.0, max_hours: float | None = None) -> Plan:
    """Measures for about `seconds` on this machine; writes nothing.

    Args:
        max_hours: budget of the run; the plan says how many epochs fit.

    Raises:
        UserError: nothing fits into the memory, the data cannot be used, or `max_hours` is too short for one epoch.
    """
    for name, value in (("seconds", seconds), ("max_hours", max_hours)):
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"--{name.replace('_', '-')} must be above 0 and finite, not {value}")
    device = pick_device(config.runtime.device)
    source = config.open_source()
    check_batch(config.batch_size, images=len(source), spec=source.spec)
    batch, decode_per_s = _decode(source, config, limit=seconds / 4)
    resident = planned_bytes(source, memory=config.loader.memory, device=device, epochs=config.epochs)
    view_seconds = 0.0  # of an image, beside the step
    if device.type == "cpu":
        begin = time.monotonic()
        views = replace(config.rendered_views, mask=MaskConfig())
        make_views(batch, views, seed=config.seed, device=device)
        view_seconds = (time.monotonic() - begin) / config.batch_size
    if not resident:  # the processes that decode also make the views
        decode_per_s = 1 / (1 / decode_per_s + view_seconds)
    trials, fitting = run_trials(config, batch, device, seconds=seconds * 3 / 4, reserve=resident)
    if not fitting:
        raise UserError(
            f"not even {trials[-1].micro_batch} images at once fit on {device}; use a smaller encoder, a smaller "
            "--views.size or --encoder.grad-checkpointing"
        )
    chosen = max(fitting, key=lambda trial: trial.images_per_s or 0.0)
    step_per_s = chosen.images_per_s or 0.0
    workers = max(1, min(pick_workers(None), -(-int(1.25 * step_per_s) // max(1, int(decode_per_s)))))
    rate = 1 / (1 / step_per_s + view_seconds) if resident else min(step_per_s, workers * decode_per_s)
    images = len(source) // config.batch_size * config.batch_size
    epoch_hours = images / rate / 3600
    epochs = config.epochs
    if max_hours is not None:
        epochs = min(epochs, int(max_hours / epoch_hours))
        if epochs < 1:
            raise UserError(f"--max-hours {max_hours}: one epoch takes {epoch_hours:.2g} hours on this machine")
    step_is_slower = resident or step_per_s <= workers * decode_per_s
    return Plan(
        config=config,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        trials=tuple(trials),
        chosen=chosen,
        decode_per_s=decode_per_s,
        workers=workers,
        images_per_s=rate,
        limit="the step"
        if step_is_slower
        else "decoding the images; use more processor cores, or --loader.cache from the second epoch on",
        images=len(source),
        hours=epochs * epoch_hours,
        hours_per_100_epochs=100 * epoch_hours,
        epochs=epochs,
        resident_gib=resident / 2**30,
    )


def _decode(source: Source, config: RunConfig, *, limit: float) -> tuple[Batch, float]:
    """One batch of real images, and the images that one process decodes per second.

    If `limit` seconds do not suffice for a whole batch, the images repeat.
    """
    order = RunOrder(count=len(source), batch_size=config.batch_size, seed=config.seed)
    images: list[np.ndarray] = []
    begin, seconds, reason = time.monotonic(), 0.0, ""
    for position in range(config.batch_size):
        try:
            images.append(source.load(order.index(0, position)))
        except UnreadableImage as error:
            reason = f", such as {source.describe(order.index(0, position))}: {error}"
            continue  # the run counts and lists it
        seconds = time.monotonic() - begin
        if seconds > limit and len(images) >= 2:
            break
    if not images:
        raise UserError(f"none of {config.batch_size} images of {source.spec} can be read{reason}")
    rate = len(images) / max(seconds, 1e-6)
    images = [images[i % len(images)] for i in range(config.batch_size)]
    pixels, sizes = stack(images)
    positions = torch.arange(config.batch_size)
    return Batch(pixels, sizes, positions, positions, epoch=0), rate
