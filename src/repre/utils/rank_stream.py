"""What ranks send each other in a call of `together`: a value of rank 0, and the items of all in their order to rank 0."""

import pickle
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from repre.utils.rank_link import LONGEST_CALL, broadcast, pack, unpack
from repre.utils.together import check_others, my_share

T = TypeVar("T")
Message = tuple[Literal["item", "turn", "end"], Any]

SENT_AHEAD = 2
"""Items that a rank sends before rank 0 takes them."""


def from_rank_0(value: T) -> T:
    """The value that rank 0 gives, on every rank of a call of `together`; on the others tensors lie on the CPU."""
    rank, size = my_share()
    if size == 1:
        return value
    if rank:
        received: T = unpack(broadcast(None))
        return received
    broadcast(pack(value))
    return value


def in_order(own: Iterable[Iterable[T]]) -> Iterator[T]:
    """Yields, on rank 0, the items of all ranks: of the first turn of rank 0, then of rank 1, ..., of its second turn, ...

    Other ranks send theirs and get nothing. Where a rank has no turn left, those after it have none either.

    Args:
        own: the turns of this rank.
    """
    rank, size = my_share()
    if rank:
        _send_turns(own)
        return
    streams: deque[Iterator[Iterable[T]]] = deque([iter(own), *map(_turns_of, range(1, size))])
    while streams:
        check_others()
        stream = streams.popleft()
        for turn in stream:
            yield from turn
            streams.append(stream)
            break


def _send_turns(turns: Iterable[Iterable[Any]]) -> None:
    """Sends items, ends of turns, and the end of all to rank 0."""
    sent: deque[list[tuple[Any, Tensor]]] = deque()

    def send(message: Message) -> None:
        content = torch.frombuffer(bytearray(pickle.dumps(message, protocol=5)), dtype=torch.uint8)
        tensors = (torch.tensor([len(content)]), content)
        sent.append([(dist.isend(tensor, dst=0), tensor) for tensor in tensors])
        while len(sent) > SENT_AHEAD:
            wait(sent.popleft())

    def wait(works: list[tuple[Any, Tensor]]) -> None:
        for work, _ in works:
            work.wait(LONGEST_CALL)

    for turn in turns:
        check_others()
        for item in turn:
            send(("item", item))
        send(("turn", None))
    send(("end", None))
    for works in sent:
        wait(works)


def _turns_of(rank: int) -> Iterator[Iterator[Any]]:
    """The turns that a rank sends. Each is read to its end before the next."""
    while (message := _receive(rank))[0] != "end":
        yield _turn(message, rank)


def _turn(message: Message, rank: int) -> Iterator[Any]:
    while message[0] == "item":
        yield message[1]
        message = _receive(rank)


def _receive(rank: int) -> Message:
    size = torch.zeros(1, dtype=torch.int64)
    _receive_into(size, rank)
    content = torch.empty(int(size), dtype=torch.uint8)
    _receive_into(content, rank)
    message: Message = pickle.loads(content.numpy().data)
    return message


def _receive_into(tensor: Tensor, rank: int) -> None:
    work = dist.irecv(tensor, src=rank)  # unlike `recv` it takes a limit
    assert work is not None
    work.wait(LONGEST_CALL)
