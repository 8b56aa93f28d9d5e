"""Schedules start and end where they should."""

import math

import pytest

from repre.utils.schedule import (
    Progress,
    cosine,
    linear,
    since_start,
    step_seed,
    warmup_constant,
    warmup_cosine,
    warmup_stable_decay,
)


def test_schedules_meet_their_ends() -> None:
    assert cosine(0, 3, 1) == 3
    assert cosine(1, 3, 1) == pytest.approx(1)
    assert cosine(0.5, 3, 1) == pytest.approx(2)
    assert linear(0.25, 0, 4) == 1
    assert warmup_cosine(0, warmup=0.1, peak=2, end=0) == 0
    assert warmup_cosine(0.05, warmup=0.1, peak=2, end=0) == pytest.approx(1)
    assert warmup_cosine(0.1, warmup=0.1, peak=2, end=0) == pytest.approx(2)
    assert warmup_cosine(1, warmup=0.1, peak=2, end=0.5) == pytest.approx(0.5)
    assert warmup_cosine(0.4, warmup=0.0, peak=2, end=0) == pytest.approx(1 + math.cos(math.pi * 0.4))
    assert warmup_constant(0.1, warmup=0.2, start=1, end=2) == pytest.approx(1.5)
    assert warmup_constant(0.2, warmup=0.2, start=1, end=2) == 2


def test_every_seed_and_step_has_a_seed_of_its_own_that_torch_takes() -> None:
    seeds = {step_seed(seed, step) for seed in range(20) for step in range(50)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert step_seed(3, 4) == step_seed(3, 4)


def test_warm_up_stable_decay_falls_with_one_minus_the_square_root() -> None:
    def rate(value: float, begun: float) -> float:
        return warmup_stable_decay(Progress(value, since_start=begun), warmup=0.1, peak=2.0, end=0.5, start=0.1)

    assert rate(0.0, 0.0) == pytest.approx(0.1)
    assert rate(0.0, 0.05) == pytest.approx(1.05)
    assert rate(0.0, 0.1) == rate(0.0, 3.0) == 2.0
    assert [rate(value, 5.0) for value in (0.25, 0.49, 1.0)] == pytest.approx([1.25, 2.0 - 0.7 * 1.5, 0.5])


def test_what_starts_a_run_follows_its_start_and_the_rest_its_decay() -> None:
    progress = Progress(0.0, since_start=0.25)
    assert (progress, since_start(progress), since_start(0.3)) == (0.0, 0.25, 0.3)
    assert warmup_constant(progress, warmup=0.5, start=0.0, end=1.0) == 0.5
    assert cosine(progress, 0.99, 1.0) == 0.99
