"""Batches that are halved where memory runs out: every image once and in order, and nothing else mistaken for it."""

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from repre.errors import RunError
from repre.utils.pieces import (
    FinalMemoryError,
    Halving,
    attempt,
    batch_dependence,
    is_out_of_memory,
    no_repetition,
    with_fewer,
)


def limited(limit: int, sizes: list[int]) -> Any:
    """A function of the rows of `range(100)` that has memory for so many."""

    def function(rows: slice) -> list[int]:
        sizes.append(rows.stop - rows.start)
        if sizes[-1] > limit:
            raise torch.OutOfMemoryError
        return list(range(100))[rows]

    return function


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (100, [100, 50]),
        (30, [100, 50, 25, 25, 25, 25, 25, 25]),
        (3, [100, 50, 25, 13, 7, 4, *[2] * 75]),
    ],
)
def test_pieces_are_halved_until_they_fit_and_stay_so(limit: int, expected: list[int]) -> None:
    sizes: list[int] = []
    halving = Halving()
    for count in (100, 50):
        found = [image for part in halving(count, limited(limit, sizes)) for image in part]
        assert found == list(range(count))
    assert sizes == expected


def test_a_size_may_be_given_at_first() -> None:
    sizes: list[int] = []
    assert len([*Halving(40)(100, limited(100, sizes))]) == 3
    assert sizes == [40, 40, 20]


def test_one_image_that_does_not_fit_raises_torchs_error() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        list(Halving()(4, limited(0, [])))


def test_fewer_images_down_to_the_smallest() -> None:
    sizes: list[int] = []
    assert len(with_fewer(lambda n: limited(5, sizes)(slice(0, n)), 16, smallest=2)) == 4
    assert sizes == [16, 8, 4]
    with pytest.raises(torch.OutOfMemoryError):
        with_fewer(lambda n: limited(1, sizes)(slice(0, n)), 16, smallest=2)


def test_what_a_failed_call_had_allocated_is_free_before_the_next() -> None:
    """Its traceback refers to its tensors: another call within the except block would not have their memory."""
    kept: list[weakref.ref[Tensor]] = []

    def call() -> Tensor:
        large = torch.zeros(1000)
        kept.append(weakref.ref(large))
        raise torch.OutOfMemoryError

    gc.disable()
    try:
        assert attempt(call) is None
        assert kept[0]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.OutOfMemoryError(), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory"), True),
        (torch.AcceleratorError("CUDA error: out of memory"), True),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("shapes cannot be multiplied"), False),
        (RunError("CUDA error: out of memory"), False),
        (FinalMemoryError("CUDA out of memory"), False),
        (ValueError("CUDA error: out of memory"), False),
    ],
)
def test_what_counts_as_a_lack_of_memory(error: Exception, is_one: bool) -> None:
    assert is_out_of_memory(error) is is_one

    def call() -> int:
        raise error

    if is_one:
        assert attempt(call) is None
        with pytest.raises(FinalMemoryError), no_repetition():
            call()
    else:
        with pytest.raises(type(error)):
            attempt(call)
        with pytest.raises(type(error)), no_repetition():
            call()


def test_what_may_be_cut() -> None:
    assert batch_dependence(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.Dropout(0.0))) is None
    assert "1 normalizes over the batch" in str(batch_dependence(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm2d(2))))
    assert "0 is a dropout of 0.1" in str(batch_dependence(nn.Sequential(nn.Dropout2d(0.1))))
