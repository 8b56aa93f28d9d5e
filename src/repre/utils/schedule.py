"""Schedules: pure functions of the progress of a run, a number in [0, 1]; and the seed of every step."""

import math

import numpy as np


def cosine(progress: float, start: float, end: float) -> float:
    """Half a cosine from `start` (progress 0) to `end` (progress 1)."""
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


def linear(progress: float, start: float, end: float) -> float:
    """A straight line from `start` (progress 0) to `end` (progress 1)."""
    return start + (end - start) * min(max(progress, 0.0), 1.0)


def warmup_cosine(progress: float, *, warmup: float, peak: float, end: float) -> float:
    """A straight line from 0 to `peak` over the first `warmup` of the run, then half a cosine to `end`."""
    if progress < warmup:
        return linear(progress / warmup, 0.0, peak)
    return cosine((progress - warmup) / (1.0 - warmup), peak, end) if warmup < 1.0 else peak


def warmup_constant(progress: float, *, warmup: float, start: float, end: float) -> float:
    """A straight line from `start` to `end` over the first `warmup` of the run, then `end`."""
    return linear(progress / warmup, start, end) if progress < warmup else end


def step_seed(seed: int, step: int) -> int:
    """Seed of everything random inside a step (drop path); the same on all ranks, which draw for the batch of all."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))
