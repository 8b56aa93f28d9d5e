"""Trials of a training step: the largest piece that fits, with and without compilation and gradient checkpointing."""

import gc
import resource
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch

from repre.config import ComputeConfig, RunConfig
from repre.data.views.render import make_views
from repre.training.memory import (
    GIB,
    DeviceMemory,
    DoesNotFit,
    StepMemory,
    device_memory,
    head_bytes,
)
from repre.training.run_state import RunState
from repre.training.step import train_step, whole_batch_reason
from repre.types import Batch
from repre.utils.device import machine_bytes, pick_precision
from repre.utils.pieces import attempt


@dataclass(frozen=True)
class Trial:
    """One way to compute the step of the whole batch, as measured.

    Attributes:
        images_per_s: of the step alone; None if it did not fit.
        memory_gib: peak memory of the device, or of the process on the CPU; None if it did not fit.
        heads_gib: what heads and contrastive loss keep of the whole batch for the backward pass, at any micro-batch.
    """

    micro_batch: int
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    compile: bool
    grad_checkpointing: bool
    images_per_s: float | None
    memory_gib: float | None
    heads_gib: float | None = None


class ProcessMemory:
    """The memory of this process, for trials on the CPU. Its peak can only rise."""

    def available(self) -> int:
        return machine_bytes()

    def start(self) -> int:
        return self.peak()

    def peak(self) -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    def synchronize(self) -> None:
        """The CPU has computed everything when a call returns."""


def run_trials(
    config: RunConfig, batch: Batch, device: torch.device, *, seconds: float, reserve: int = 0
) -> tuple[list[Trial], list[Trial]]:
    """All trials that were run, and those that fit.

    Args:
        reserve: bytes of the device that the run takes beside its step.
    """
    trials: list[Trial] = []
    fitting: list[Trial] = []
    end = time.monotonic() + seconds
    for candidate in _candidates(config, device):
        if fitting and (time.monotonic() > end or candidate.grad_checkpointing != fitting[0].grad_checkpointing):
            break
        trial = _run_trial(candidate, batch, device, config, reserve)
        trials.append(trial)
        if trial.images_per_s is not None:
            fitting.append(trial)
    return trials, fitting


def _candidates(config: RunConfig, device: torch.device) -> list[Trial]:
    """What to try, the most promising first: on CUDA also the compiled encoder, last gradient checkpointing."""
    precision = config.compute.precision
    if precision == "auto":
        precision = "bf16" if pick_precision("auto", device) is torch.bfloat16 else "fp32"
    as_given = Trial(
        config.batch_size, precision, config.compute.compile == "on", config.encoder.grad_checkpointing, None, None
    )
    trials = [as_given]
    if device.type == "cuda" and config.compute.compile == "auto":
        trials.insert(0, replace(as_given, compile=True))
    if not as_given.grad_checkpointing:
        trials.append(replace(as_given, grad_checkpointing=True))
    return trials


def _run_trial(trial: Trial, batch: Batch, device: torch.device, config: RunConfig, reserve: int) -> Trial:
    """Finds the largest piece that fits and times whole steps; returns the trial with its measurements, or without them."""
    config = replace(
        config,
        encoder=replace(config.encoder, grad_checkpointing=trial.grad_checkpointing, weights=None),
        reconstruction=replace(config.reconstruction, end_fraction=1.0),  # the branch takes part
        compute=ComputeConfig(precision=trial.precision, micro_batch="auto", compile="on" if trial.compile else "off"),
        runtime=replace(config.runtime, shard=False),
    )
    try:
        return attempt(partial(_measure, trial, batch, device, config, reserve)) or trial
    except DoesNotFit as failure:
        return replace(trial, micro_batch=failure.size)
    finally:
        gc.collect()


def _measure(trial: Trial, batch: Batch, device: torch.device, config: RunConfig, reserve: int) -> Trial:
    memory: DeviceMemory = device_memory(device) or ProcessMemory()
    state = RunState(config, device)
    render = partial(make_views, batch, state.views, seed=config.seed, device=device)
    views = render()
    step = StepMemory(state, views, progress=0.5, memory=memory, reserve=reserve)
    if whole_batch_reason(state.model.encoder, config.reconstruction) is None:
        size, _ = step.search()
    else:
        size = config.batch_size
        if step.measure(size, size).peak > step.limit:
            raise DoesNotFit(size, None)

    def train() -> None:
        train_step(
            state.model,
            state.optimizer,
            views if device.type == "cpu" else render(),  # on the CPU the loader's processes make the views
            optim=config.optim,
            batch_size=config.batch_size,
            progress=0.5,
            seed=0,
            micro_batch=size,
            precision=state.precision,
            scaler=state.scaler,
        )
        memory.synchronize()

    memory.start()
    train()  # allocates, compiles, chooses kernels
    begin, steps = time.monotonic(), 0
    while steps < 2 or (time.monotonic() - begin < 2 and steps < 20):
        train()
        steps += 1
    rate = steps * config.batch_size / (time.monotonic() - begin)
    heads = head_bytes(state, count=config.batch_size)
    return replace(trial, micro_batch=size, images_per_s=rate, memory_gib=memory.peak() / GIB, heads_gib=heads / GIB)
