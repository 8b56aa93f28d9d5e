"""Commands that several processes work on: rank 0 runs the command, the others do the shares that it gives them.

Under torchrun every process is started with the same command. `led_by_rank_0` lets rank 0 run it, as if it were alone: it
alone reads options, prints, locks and writes results. Where work can be shared, it calls a function `together` with the
others, which have waited for that; inside, `my_share` says what each of them does.

An error on any rank ends the call on all of them and is raised on rank 0, whose message and exit code hold for all. What
rank 0 says, it says through torch's store, which is asked a few times a second, so that nobody waits in a collective call
for work of unknown length, and a signal is noticed at once. Functions and arguments travel as pickles, within one run only.
"""

import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn, ParamSpec, TypeVar

import torch
import torch.distributed as dist

from repre.errors import RunError, UserError
from repre.utils.device import pick_device
from repre.utils.dist import (
    PEER_ENDED,
    all_processes,
    is_initialized,
    is_lost_peer,
    rendezvous,
    single_process,
    started_processes,
)
from repre.utils.rank_link import TICK, Ranks, broadcast, pack, portable, unpack
from repre.utils.signals import Interrupted

T = TypeVar("T")
P = ParamSpec("P")

ANSWER_SECONDS, READY_SECONDS = 10.0, 600.0
"""Longest wait for idle ranks: until they hear of a call, and until they have opened their devices."""
REASON_SECONDS = 2.0
"""Longest wait for the reason of a rank that has left a call."""
NOTICE_SECONDS = 20.0
"""After an error a rank waits so long for rank 0 to notice, before it ends alone."""
STOPPED = "stopped by a signal to one of the processes; run the same command again to resume"

_ranks: Ranks | None = None
_commands = 0


def led_by_rank_0(function: Callable[[], T]) -> T:
    """Calls a function on rank 0, while the other ranks take part in its calls of `together`.

    Returns:
        On every rank what the function returned on rank 0. Without other ranks, and inside another such call, the function
        is simply called.

    Raises:
        Exception: on every rank, what the function raised on rank 0.
        RunError: rank 0 is gone.
    """
    global _ranks, _commands
    if started_processes() == 1 or _ranks is not None or is_initialized():
        return function()
    store, rank, size = rendezvous()
    _commands += 1
    _ranks = Ranks(dist.PrefixStore(f"command {_commands}", store), rank, size)
    try:
        return _lead(_ranks, function) if rank == 0 else _follow(_ranks)
    finally:
        _ranks.close_group()
        _ranks = None


def together(device: torch.device, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls a function on all ranks with equal arguments, which can be pickled; returns what it returned on this one.

    Without other ranks, and inside another such call, the function is simply called.

    Args:
        device: where rank 0 computes; on CUDA every rank takes its own. Tensors that lie there come to the ranks' devices.

    Raises:
        Exception: what the function raised on any rank; all of them have left it.
        RunError: a rank is gone.
    """
    ranks = _ranks
    if ranks is None or ranks.in_call:
        return function(*args, **kwargs)
    content = pack((function, args, kwargs))
    ranks.call += 1
    try:
        ranks.store.set(f"call {ranks.call}", device.type)
        _wait_until_ready(ranks)
        ranks.open_group(device)
        with _in_call(ranks):
            broadcast(content)
            del content
            result = function(*args, **kwargs)
            _wait_for_all()
        return result
    except BaseException as error:
        reason = _reason(ranks, error)
        with suppress(RuntimeError):
            ranks.leave(f"abandoned {ranks.call}", True)
        ranks.close_group(error)
        if reason is error:
            raise
        raise reason from error


def my_share() -> tuple[int, int]:
    """The number of this rank and the number of ranks in a call of `together`; (0, 1) elsewhere."""
    return (_ranks.rank, _ranks.size) if _ranks is not None and _ranks.in_call else (0, 1)


def waiting_ranks() -> int:
    """The ranks that wait for rank 0 to call `together`; 0 inside such a call."""
    return 0 if _ranks is None or _ranks.in_call else _ranks.size - 1


def of_rank(description: str) -> str:
    """The description of a share of work, for its progress."""
    size = my_share()[1]
    return description if size == 1 else f"{description} (1 of {size} ranks)"


def check_others() -> None:
    """Ends a call of `together` that another rank has left; for loops over a share.

    Raises:
        Exception: on rank 0, what another rank raised.
        RunError: on other ranks, if rank 0 has left the call.
    """
    if _ranks is None or not _ranks.in_call:
        return
    if _ranks.rank and _ranks.has(*_ranks.ended):
        raise RunError(PEER_ENDED, kind="lost")
    if not _ranks.rank and _ranks.has(f"failed {_ranks.call}"):
        raise _ranks.read(f"failed {_ranks.call}")


# --------------------------------------------------------------------------------------------------------- rank 0


def _lead(ranks: Ranks, function: Callable[[], T]) -> T:
    try:
        with single_process(), _signals_as_errors(signal.SIGTERM):  # else it ends without a word to the others
            result = function()
    except BaseException as error:
        _end(ranks, portable(error))
        raise
    _end(ranks, result)
    return result


def _end(ranks: Ranks, outcome: Any) -> None:
    """Tells the others how the command ended, and lets them read it before a store of this process ends."""
    with suppress(RuntimeError):
        ranks.leave("end", outcome)
        ranks.close_group()
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            until = time.monotonic() + REASON_SECONDS
            while ranks.store.add("left", 0) < ranks.size - 1 and time.monotonic() < until:
                time.sleep(TICK / 5)


def _wait_until_ready(ranks: Ranks) -> None:
    """Waits until all ranks take part in the newest call; raises what one of them raises before, or that it is gone."""
    for word, seconds in (("heard", ANSWER_SECONDS), ("ready", READY_SECONDS)):
        until = time.monotonic() + seconds
        while ranks.store.add(f"{word} {ranks.call}", 0) < ranks.size - 1:
            if ranks.has(f"failed {ranks.call}"):
                raise ranks.read(f"failed {ranks.call}")
            if time.monotonic() > until:
                raise RunError(PEER_ENDED, kind="lost")
            time.sleep(TICK / 5)


def _reason(ranks: Ranks, error: BaseException) -> BaseException:
    """What ended a call: the error itself, or what another rank raised, where the error only says that it left."""
    if not is_lost_peer(error):
        return error
    with suppress(RunError):
        if ranks.has_within(REASON_SECONDS, f"failed {ranks.call}"):
            found: BaseException = ranks.read(f"failed {ranks.call}")
            return found
    return RunError(PEER_ENDED, kind="lost")


# --------------------------------------------------------------------------------------------------- the other ranks


def _follow(ranks: Ranks) -> Any:
    """Takes part in the calls of rank 0 until the command ends."""
    with _signals_as_errors(signal.SIGTERM, signal.SIGINT):
        try:
            while not ranks.has("end"):
                if ranks.has(f"call {ranks.call + 1}"):
                    ranks.call += 1
                    _take_part(ranks)
                else:
                    time.sleep(TICK)
        except Interrupted as error:  # while it was idle
            ranks.call += 1
            _report(ranks, error)  # ends the next call, unless rank 0 needs none
            if not ranks.has_within(REASON_SECONDS, "end"):
                raise
        outcome = ranks.read("end")
        ranks.store.add("left", 1)
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _take_part(ranks: Ranks) -> None:
    """Calls what rank 0 calls; after an error, waits for rank 0 to notice it."""
    try:
        ranks.store.add(f"heard {ranks.call}", 1)
        device = pick_device(ranks.store.get(f"call {ranks.call}").decode())
        ranks.store.add(f"ready {ranks.call}", 1)
        ranks.open_group(device)
        with _in_call(ranks):
            function, args, kwargs = unpack(broadcast(None), device)
            function(*args, **kwargs)
            _wait_for_all()
    except BaseException as error:
        if ranks.has_within(REASON_SECONDS if is_lost_peer(error) else 0, *ranks.ended):
            ranks.close_group(error)
            return
        if not is_lost_peer(error):
            _report(ranks, error)
        ranks.close_group(error)
        if not ranks.has_within(NOTICE_SECONDS, *ranks.ended):
            if is_lost_peer(error):
                raise RunError(PEER_ENDED, kind="lost") from error
            raise


def _report(ranks: Ranks, error: BaseException) -> None:
    """Leaves an error for rank 0, if it is the first of this call."""
    if not isinstance(error, UserError | RunError):
        error.add_note(f"on rank {ranks.rank}")
        if not isinstance(error, OSError | MemoryError):
            error.add_note("".join(traceback.format_exception(error)))
    if ranks.store.add(f"failures {ranks.call}", 1) == 1:
        ranks.leave(f"failed {ranks.call}", portable(error))


@contextmanager
def _signals_as_errors(*numbers: signal.Signals) -> Iterator[None]:
    """Inside, the first of these signals raises `Interrupted`; those that follow, as torchrun sends them, do nothing."""

    def handle(number: int, frame: FrameType | None) -> NoReturn:
        for other in before:
            signal.signal(other, signal.SIG_IGN)
        raise Interrupted(STOPPED, code=128 + number)

    before: dict[int, Any] = {}
    try:
        for stop in numbers:
            with suppress(ValueError):  # only the main thread may set handlers
                before[stop] = signal.signal(stop, handle)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ---------------------------------------------------------------------------------------------------- between ranks


@contextmanager
def _in_call(ranks: Ranks) -> Iterator[None]:
    ranks.in_call = True
    try:
        with all_processes():
            yield
    finally:
        ranks.in_call = False


def _wait_for_all() -> None:
    """Waits until all ranks have done their share; ends at once if one of them has failed or is gone."""
    work = dist.all_reduce(torch.zeros(1), async_op=True)
    assert work is not None
    pause = 0.001
    while not work.is_completed():
        check_others()
        time.sleep(pause)
        pause = min(2 * pause, TICK)
    work.wait()
