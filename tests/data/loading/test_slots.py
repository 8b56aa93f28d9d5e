"""Slots: what comes out is what was put in, and no slot is reused while its item may still be read."""

import time
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from repre.data.loading import slots
from repre.data.loading.slots import SlotRing, private_copy
from repre.data.loading.workers import in_workers
from repre.utils.shared_memory import shared_bytes

Pair = namedtuple("Pair", "first second")


@dataclass(frozen=True)
class Item:
    tensor: Tensor
    others: dict[str, Any]


def item() -> Item:
    channels_last = torch.arange(2 * 5 * 4 * 3, dtype=torch.int16).reshape(2, 5, 4, 3).permute(0, 3, 1, 2)
    same = torch.randn(3, 7)
    others = {
        "list": [same, same, torch.tensor(3.5), torch.empty(0, 4), torch.ones(2, 2, dtype=torch.bfloat16)],
        "pair": Pair(torch.arange(10)[::3], None),
        "arrays": (np.arange(6000).reshape(60, 100)[:, ::2], np.array(["a", "b"]), np.ones(5, ">f4"), np.ones(2)),
        "plain": ("text", 1, {"k": True}, torch.tensor([True, False])),
    }
    return Item(channels_last, others)


def assert_same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, Item):
        assert one.tensor.stride() == other.tensor.stride()
        assert_same([one.tensor, one.others], [other.tensor, other.others])
    elif isinstance(one, Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)
    elif isinstance(one, dict):
        assert_same(list(one.items()), list(other.items()))
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for first, second in zip(one, other):
            assert_same(first, second)
    else:
        assert one == other


@pytest.mark.parametrize("slot_bytes", [1 << 20, 8192, 1])
def test_any_nesting_comes_out_as_it_was(slot_bytes: int) -> None:
    """What does not fit its slot comes through the queue."""
    ring, original = SlotRing(2, slot_bytes), item()
    for number in range(5):
        found = ring.unpack(ring.make(number, lambda: original))
        assert_same(found, original)
        assert found.others["list"][0] is found.others["list"][1]
        array = found.others["arrays"][0]
        inside = ring.memory.data_ptr() <= array.ctypes.data < ring.memory.data_ptr() + len(ring.memory)
        assert inside == (slot_bytes > array.nbytes)


def test_an_array_of_the_slot_is_not_copied() -> None:
    ring = SlotRing(2, 4096)
    made: list[np.ndarray] = []

    def build() -> Tensor:
        made.append(slots.empty((10, 10), np.dtype(np.uint16)))
        made[0][:] = 7
        return torch.from_numpy(made[0])

    found = ring.unpack(ring.make(1, build))
    assert found.data_ptr() == made[0].ctypes.data
    assert (found == 7).all()
    assert slots.empty((3,), np.dtype(np.uint8)).shape == (3,), "outside of an item it is any memory"


def test_a_private_copy_outlives_the_slot() -> None:
    ring = SlotRing(1, 4096)
    first = private_copy(ring.unpack(ring.make(0, lambda: torch.zeros(9))))
    ring.make(1, lambda: torch.ones(9))
    assert (first == 0).all()


class Numbers(Dataset[Tensor]):
    """Item n is filled with n; `done` counts the items that were made."""

    def __init__(self, workers: int) -> None:
        self.done = shared_bytes(8 * workers).view(torch.int64)

    def __getitem__(self, number: int) -> Tensor:
        array = slots.empty((64,), np.dtype(np.int64))
        array[:] = number
        return torch.from_numpy(array)


class Counted(Numbers):
    def __getitem__(self, number: int) -> Tensor:
        made = super().__getitem__(number)
        self.done[torch.utils.data.get_worker_info().id] += 1
        return made


@pytest.mark.parametrize(("workers", "prefetch", "extra"), [(2, 2, 3), (3, 1, 1), (1, 2, 4)])
def test_no_slot_is_written_while_its_item_may_be_read(workers: int, prefetch: int, extra: int) -> None:
    """The consumer waits until the workers have made all that they may, which is the worst that can happen."""
    data, ring = Counted(workers), SlotRing(workers * prefetch + extra, 512)
    items = in_workers(data, range(40), workers=workers, ring=ring, prefetch=prefetch)
    received: list[Tensor] = []
    for number in range(30):
        received.append(next(items))
        ahead = number + 1 + workers * prefetch
        until = time.monotonic() + 60
        while int(data.done.sum()) < min(ahead, 40):
            assert time.monotonic() < until
            time.sleep(0.001)
        for earlier in range(max(0, number - extra + 1), number + 1):
            assert (received[earlier] == earlier).all()
        if number >= extra and ahead <= 40:  # one slot less would have been one too few
            assert (received[number - extra] == number + workers * prefetch).all()


def test_items_without_a_ring_are_the_consumer_s_own() -> None:
    assert [int(t[0]) for t in list(in_workers(Numbers(2), range(40), workers=2))] == list(range(40))
