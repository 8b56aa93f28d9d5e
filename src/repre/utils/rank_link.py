"""What connects the processes of a command: messages in torch's store, and a process group while they work together.

Waiting for messages asks the store a few times a second, so that it ends with the process that keeps the store, and a signal
is noticed at once.
"""

import io
import pickle
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from repre.errors import RunError
from repre.utils.dist import PEER_ENDED, local_world_size, started_processes

CONNECT, LONGEST_CALL = timedelta(seconds=30), timedelta(days=30)
"""Limits of torch's calls between ranks: to connect them, and all others. Once they are connected, a rank that ends or fails
is noticed at once, and workers have limits of their own."""
TICK = 0.05
"""Seconds between two questions to the store."""


@dataclass
class Ranks:
    """The processes of a command, and where they leave messages for each other."""

    store: dist.Store
    rank: int
    size: int
    call: int = -1
    """Number of the newest call of `together`."""
    in_call: bool = False
    group: str = ""
    """Type of the devices of the process group; empty where there is none."""

    def has(self, *keys: str) -> bool:
        """Whether one of these messages was left.

        Raises:
            RunError: the store has ended, with the process that kept it.
        """
        with _store_explained():
            return any(self.store.check([key]) for key in keys)

    def has_within(self, seconds: float, *keys: str) -> bool:
        """Whether one of these messages is left within some seconds."""
        until = time.monotonic() + seconds
        while not (found := self.has(*keys)) and time.monotonic() < until:
            time.sleep(TICK)
        return found

    def leave(self, key: str, value: Any) -> None:
        """Leaves a message for all."""
        self.store.set(key, pickle.dumps(value))  # type: ignore[arg-type]  # torch takes bytes, too

    def read(self, key: str) -> Any:
        """A message that was left; raises RunError as `has` does."""
        with _store_explained():
            return pickle.loads(self.store.get(key))

    @property
    def ended(self) -> tuple[str, str]:
        """The messages of rank 0 that end the newest call."""
        return f"abandoned {self.call}", "end"

    def open_group(self, device: torch.device) -> None:
        """Connects the processes, unless they are: gloo, and NCCL for tensors on CUDA devices."""
        if self.group == device.type:
            return
        self.close_group()
        can_change = hasattr(dist, "set_timeout")  # not in every torch
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=dist.PrefixStore(f"group {self.call}", self.store),
            rank=self.rank,
            world_size=self.size,
            timeout=CONNECT if can_change else LONGEST_CALL,
        )
        if can_change:
            dist.set_timeout(LONGEST_CALL)
        self.group = device.type

    def close_group(self, error: BaseException | None = None) -> None:
        """Ends the connections; whoever waits for this process gets an error.

        Args:
            error: in whose frames torch's functions still hold the group, which would keep its connections open.
        """
        if error is not None:
            traceback.clear_frames(error.__traceback__)
        if self.group:
            self.group = ""
            with suppress(RuntimeError):
                dist.destroy_process_group()


@contextmanager
def _store_explained() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise RunError(PEER_ENDED, kind="lost") from error


class _ByValue(pickle.Pickler):
    """Sends the content of mapped files, which may lie on a disk of this machine alone."""

    def reducer_override(self, value: Any) -> Any:
        return np.asarray(value).__reduce__() if isinstance(value, np.memmap) else NotImplemented


_by_value = ModuleType("pickle_by_value")
_by_value.Pickler = _ByValue  # type: ignore[attr-defined]


def pack(value: Any, *, by_value: bool | None = None) -> Tensor:
    """A value as bytes for other ranks, uint8 [n].

    Args:
        by_value: whether mapped files travel with their content instead of their names; None: if there are other machines.
    """
    if by_value is None:
        by_value = local_world_size() < started_processes()
    buffer = io.BytesIO()
    torch.save(value, buffer, pickle_module=_by_value if by_value else pickle)
    return torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8)


def unpack(content: Tensor, device: torch.device | str = "cpu") -> Any:
    """The value of `pack`; what lay on the CUDA device of rank 0 comes to `device`, all else to the CPU.

    The bytes come from rank 0 of this run: no file is read, so no stranger's pickle.
    """
    return torch.load(io.BytesIO(content.numpy().data), map_location={"cuda:0": str(device)}, weights_only=False)


def broadcast(content: Tensor | None) -> Tensor:
    """Sends bytes, uint8 [n], from rank 0 to all; others give None."""
    size = torch.tensor([0 if content is None else len(content)])
    dist.broadcast(size, src=0)
    content = torch.empty(int(size), dtype=torch.uint8) if content is None else content
    dist.broadcast(content, src=0)
    return content


def portable(error: BaseException) -> BaseException:
    """The error, or a `RunError` with its text and exit code where another process cannot rebuild it."""
    try:
        rebuilt: BaseException = pickle.loads(pickle.dumps(error))
        if isinstance(rebuilt, type(error)) and str(rebuilt) == str(error):
            return error
    except Exception:
        pass
    if isinstance(error, RunError):
        plain = RunError(str(error), kind=error.kind)
    else:
        plain = RunError(f"{type(error).__name__}: {error}")
    plain.code = getattr(error, "code", RunError.code)
    return plain
