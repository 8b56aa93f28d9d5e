"""Schedules start and end where they should."""

import math

import pytest

from repre.utils.schedule import cosine, linear, step_seed, warmup_constant, warmup_cosine


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
