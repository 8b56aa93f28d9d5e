"""Schedules as pure functions of the progress of a run, which is a number in [0, 1]; and the random seed of each step."""

import math

import numpy as np


class Progress(float):
    """How far a run is, for a plan whose middle can be made longer: warm-up, a stable part, decay (`optim.schedule wsd`).

    Its value is for what follows the whole run, such as a teacher's momentum: 0 until the decay begins, 1 at the end. What
    happens at the start of a run takes `since_start`. So nothing before the decay depends on how long the run is.

    Args:
        value: share of the decay that is done, in [0, 1].
        since_start: steps that are done, over a number of steps that does not change when the run is made longer.
    """

    since_start: float

    def __new__(cls, value: float, *, since_start: float) -> "Progress":
        progress = super().__new__(cls, value)
        progress.since_start = since_start
        return progress


def since_start(progress: float) -> float:
    """The progress for what happens at the start of a run, such as a warm-up; it may pass 1."""
    return progress.since_start if isinstance(progress, Progress) else progress


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


def warmup_stable_decay(progress: float, *, warmup: float, peak: float, end: float, start: float = 0.0) -> float:
    """A straight line from `start` to `peak` over the fraction `warmup` of the run, then constant, at last a decay to `end`.

    The decay falls with 1 minus the square root of its own progress (Haegele et al. 2024, arXiv 2405.18392, section 3).

    Args:
        progress: a `Progress`.
    """
    if (begun := since_start(progress)) < warmup:
        return linear(begun / warmup, start, peak)
    return end + (peak - end) * (1.0 - math.sqrt(progress))


def warmup_constant(progress: float, *, warmup: float, start: float, end: float) -> float:
    """A straight line from `start` to `end` over the fraction `warmup` of the run, then constant."""
    begun = since_start(progress)
    return linear(begun / warmup, start, end) if begun < warmup else end


def step_seed(seed: int, step: int) -> int:
    """The seed of everything random inside a step (drop path); the same on all ranks, which draw for the global batch."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))
