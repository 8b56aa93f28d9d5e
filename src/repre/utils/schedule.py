"""Schedules as pure functions of the progress of a run, which is a number in [0, 1]; and the random seed of each step."""

import math

import numpy as np


def cosine(progress: float, start: float, end: float) -> float:
    """Half a cosine from `start` at progress 0 to `end` at progress 1."""
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


def linear(progress: float, start: float, end: float) -> float:
    """A straight line from `start` at progress 0 to `end` at progress 1."""
    return start + (end - start) * min(max(progress, 0.0), 1.0)


def warmup_cosine(progress: float, *, warmup: float, peak: float, end: float, start: float = 0.0) -> float:
    """A straight line from `start` to `peak` over the fraction `warmup` of the run, then half a cosine to `end`."""
    if progress < warmup:
        return linear(progress / warmup, start, peak)
    return cosine((progress - warmup) / (1.0 - warmup), peak, end) if warmup < 1.0 else peak


def warmup_constant(progress: float, *, warmup: float, start: float, end: float) -> float:
    """A straight line from `start` to `end` over the fraction `warmup` of the run, then constant."""
    return linear(progress / warmup, start, end) if progress < warmup else end


def step_seed(seed: int, step: int) -> int:
    """The seed of everything random inside a step (drop path); the same on all ranks, which draw for the global batch."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))
