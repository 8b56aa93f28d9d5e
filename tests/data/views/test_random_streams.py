"""Random numbers are a function of seed, epoch, view, operation and position, and of nothing else."""

from typing import Any

import numpy as np
import pytest
import torch

from repre.data.views.random_streams import Operation, RandomStreams
from repre.errors import UserError


def numbers(
    positions: torch.Tensor,
    count: int = 36,
    *,
    seed: int = 3,
    epoch: int = 1,
    view: int = 0,
    operation: Operation = Operation.CROP,
) -> torch.Tensor:
    return RandomStreams(seed=seed, epoch=epoch, positions=positions).uniforms(operation, count, view=view)


@pytest.mark.parametrize("count", [1, 4, 22])
def test_numbers_are_a_function_of_the_position(count: int) -> None:
    run = numbers(torch.arange(100), count)
    assert run.shape == (100, count)
    assert run.dtype == torch.float64
    scattered = torch.tensor([7, 8, 9, 50, 3, 99, 98, 0])
    assert torch.equal(numbers(scattered, count), run[scattered])
    far = torch.tensor([2**40, 2**40 + 1])
    assert torch.equal(numbers(far, count)[1:], numbers(far[1:], count))
    assert numbers(torch.arange(0), count).shape == (0, count)
    assert len(run.unique()) == run.numel(), "samples share random numbers"


PINNED = {
    Operation.CROP: 0.024594902587746437,
    Operation.FLIP: 0.9467375233410583,
    Operation.JITTER: 0.6179670646254362,
    Operation.GRAYSCALE: 0.05524939523187755,
    Operation.BLUR: 0.35109404184115767,
    Operation.SOLARIZE: 0.016387330833320557,
    Operation.PATCH_MASK: 0.5581242153547126,
    Operation.LABELED_CROP: 0.705787642216573,
    Operation.BLOCK_MASK: 0.06949697704748059,
    Operation.MASK_RATIO: 0.6385402457457,
}


def test_numbers_are_pinned() -> None:
    """A run that is resumed with another version of this package or of numpy has to see the same views."""
    positions = torch.tensor([5])
    for number, operation in enumerate(Operation):
        first = float(numbers(positions, 1, seed=7, epoch=2, view=1, operation=operation))
        key = np.array([7, 2 << 32 | 1 << 16 | number], dtype=np.uint64)
        assert first == np.random.Generator(np.random.Philox(key=key, counter=[5, 0, 0, 0])).random()
        assert first == PINNED[operation], operation.name


@pytest.mark.parametrize("change", [{"seed": 4}, {"epoch": 2}, {"view": 1}, {"operation": Operation.FLIP}])
def test_streams_are_independent(change: dict[str, Any]) -> None:
    base, changed = numbers(torch.arange(64)), numbers(torch.arange(64), **change)
    assert not (base == changed).any()
    assert abs(torch.corrcoef(torch.stack([base.flatten(), changed.flatten()]))[0, 1]) < 0.07


def test_numbers_are_uniform() -> None:
    drawn = numbers(torch.arange(4000))
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert (drawn.mean(dim=0) - 0.5).abs().max() < 0.02
    assert (drawn.var(dim=0) - 1 / 12).abs().max() < 0.005


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(UserError, match="seed=-1"):
        RandomStreams(seed=-1, epoch=0, positions=torch.arange(2))
