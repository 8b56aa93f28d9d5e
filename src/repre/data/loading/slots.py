"""A ring of slots in one shared memory, through which workers hand over items: only where tensors lie goes through a queue.

A slot belongs to the item that a worker is making or that the consumer still reads. Item n uses slot n modulo the number of
slots. An item is any nesting of tensors, arrays, tuples, lists, dictionaries and dataclasses.
"""

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repre.utils.shared_memory import shared_bytes

PAGE = 4096
ALIGNMENT = 64
INLINE_BYTES = 4096
"""Smaller arrays go through the queue with the rest of their item. Tensors never do as such: torch would share each by a
file of its own in /dev/shm."""


@dataclasses.dataclass(frozen=True)
class _Stored:
    """A tensor of a packed item: where it lies in the memory of the ring, or its bytes if its slot had no room."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    is_array: bool
    offset: int = 0
    content: bytes | None = None


class SlotRing:
    """`count` slots of `slot_bytes` bytes each, rounded up to pages; made before the workers start.

    Attributes:
        memory: all slots, uint8.
    """

    def __init__(self, count: int, slot_bytes: int) -> None:
        self.count, self.slot_bytes = count, -(-slot_bytes // PAGE) * PAGE
        self.memory = shared_bytes(self.count * self.slot_bytes)
        self._next, self._end = 0, 0  # in a worker: what is free of the slot of the item that it makes

    def slot(self, number: int) -> Tensor:
        """The memory of item `number`, uint8."""
        start = number % self.count * self.slot_bytes
        return self.memory[start : start + self.slot_bytes]

    def make(self, number: int, build: Callable[[], Any]) -> Any:
        """Builds item `number` in its slot and returns what to send: the item with the places of its tensors."""
        global _current
        self._next = number % self.count * self.slot_bytes
        self._end = self._next + self.slot_bytes
        _current = self
        try:
            item = build()
        finally:
            _current = None
        return self._pack(item)

    def _take(self, size: int) -> int | None:
        """The offset of `size` free bytes of the slot of the item in the making; None if it has no room for them."""
        start = -(-self._next // ALIGNMENT) * ALIGNMENT
        if start + size > self._end:
            return None
        self._next = start + size
        return start

    def _pack(self, item: Any) -> Any:
        base = self.memory.data_ptr()

        def store(value: Tensor | np.ndarray) -> Any:
            if is_array := isinstance(value, np.ndarray):
                if value.nbytes < INLINE_BYTES or not _is_numeric(value.dtype):
                    return value
                tensor = torch.from_numpy(np.require(value, requirements=("C", "W")))
            else:
                tensor = value.detach()
            if not _is_dense(tensor):
                tensor = tensor.contiguous()
            size, shape, stride = tensor.numel() * tensor.itemsize, tuple(tensor.shape), tensor.stride()
            at = tensor.data_ptr() - base
            if size and self._end - self.slot_bytes <= at < self._end:  # built in its slot by `empty`
                return _Stored(tensor.dtype, shape, stride, is_array, at)
            offset = self._take(size)
            if offset is None:
                flat = tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8)
                return _Stored(tensor.dtype, shape, stride, is_array, content=flat.numpy().tobytes())
            stored = _Stored(tensor.dtype, shape, stride, is_array, offset)
            self._tensor(stored).copy_(tensor)
            return stored

        return map_leaves(store, item, (Tensor, np.ndarray))

    def unpack(self, packed: Any) -> Any:
        """The item that `make` sent. Its tensors are views of the slot, until a worker makes the next item there."""

        def load(stored: _Stored) -> Tensor | np.ndarray:
            tensor = self._tensor(stored)
            return tensor.numpy() if stored.is_array else tensor

        return map_leaves(load, packed, (_Stored,))

    def _tensor(self, stored: _Stored) -> Tensor:
        count = math.prod(stored.shape)
        if not count:
            return torch.empty_strided(stored.shape, stored.stride, dtype=stored.dtype)
        if stored.content is not None:
            flat = torch.frombuffer(bytearray(stored.content), dtype=stored.dtype)
        else:
            flat = self.memory[stored.offset : stored.offset + count * stored.dtype.itemsize].view(stored.dtype)
        return flat.as_strided(stored.shape, stored.stride)


_current: SlotRing | None = None
"""In a worker: the ring whose item is in the making."""


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """An array to fill: in a worker, in the slot of the item that it makes, which saves a copy; else a new one."""
    size = math.prod(shape) * dtype.itemsize
    offset = None if _current is None else _current._take(size)
    if _current is None or offset is None:
        return np.empty(shape, dtype)
    return _current.memory[offset : offset + size].numpy().view(dtype).reshape(shape)


@contextmanager
def outside() -> Iterator[None]:
    """A context in which `empty` gives new arrays: for what stays in the worker."""
    global _current
    before, _current = _current, None
    try:
        yield
    finally:
        _current = before


def private_copy(item: Any, *, pin: bool = False) -> Any:
    """The item with tensors and arrays of its own; with `pin` its tensors lie in page-locked memory, for CUDA."""

    def copied(value: Tensor | np.ndarray) -> Tensor | np.ndarray:
        if isinstance(value, np.ndarray):
            return value.copy()
        if pin:
            return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, pin_memory=True).copy_(value)
        return value.clone()

    return map_leaves(copied, item, (Tensor, np.ndarray))


def map_leaves(function: Callable[[Any], Any], item: Any, kinds: tuple[type, ...]) -> Any:
    """An item of the same structure with `function` applied to its leaves of these kinds, once to each object.

    What is in the item twice, such as views that are their own targets, is in the result twice as well. Dataclasses with a
    `__reduce__` of their own, for which small tensors travel faster by value, are leaves that stay as they are.
    """
    done: dict[int, Any] = {}

    def walk(value: Any) -> Any:
        if isinstance(value, kinds):
            if id(value) not in done:
                done[id(value)] = function(value)
            return done[id(value)]
        if isinstance(value, dict):
            return {key: walk(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [walk(entry) for entry in value]
        if isinstance(value, tuple):
            entries = [walk(entry) for entry in value]
            return type(value)(*entries) if hasattr(value, "_fields") else tuple(entries)
        if dataclasses.is_dataclass(value) and not isinstance(value, type | _Stored) and not _pickles_itself(value):
            changed = copy.copy(value)
            for field in dataclasses.fields(value):
                object.__setattr__(changed, field.name, walk(getattr(value, field.name)))
            return changed
        return value

    return walk(item)


def _pickles_itself(value: Any) -> bool:
    return type(value).__reduce__ is not object.__reduce__


def leaves(item: Any) -> list[Tensor]:
    """The tensors of an item, each once, in the order of its structure."""
    found: list[Tensor] = []
    map_leaves(found.append, item, (Tensor,))
    return found


def _is_numeric(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "biufc" and dtype.isnative


def _is_dense(tensor: Tensor) -> bool:
    """Whether the elements of a tensor fill its memory without gaps, in any order of its dimensions."""
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in zip(tensor.stride(), tensor.shape) if size != 1):
        if stride != expected:
            return False
        expected *= size
    return True
