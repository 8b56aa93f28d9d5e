"""Ends the processes of a group when one of them hangs, and prints which one and where.

A collective call waits for ever for a process that was stopped or whose machine is gone. So a thread of every process
tells the others, through the store of the group, that it lives and where its main thread is. While any main thread moves,
the others may wait for it as long as it takes.
"""

import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from types import FrameType
from typing import Any

import torch.distributed as dist

from repre.errors import RunError, counted

TICK = 5.0
"""Longest time between two signs of life, in seconds."""
GRACE = 30.0
"""Seconds that a process has to end by itself once another one has ended."""
ENDED = "ended"
"""The last sign of life of a process that ended by an error."""


class RankWatch:
    """The signs of life of all processes, and what follows when they stop.

    Args:
        store: of the group; this object has its own connection to it.
        rank, size: of the group.
        limit: seconds without a sign of life, or in which no main thread moves, after which this process ends.
    """

    def __init__(self, store: dist.Store, *, rank: int, size: int, limit: float) -> None:
        self.store, self.rank, self.size, self.limit = store, rank, size, limit
        self.tick = min(TICK, limit / 6)
        self.main = threading.main_thread().ident or 0
        self.seen: tuple[tuple[int, int], ...] = ()
        begin = time.monotonic()
        self.moved = begin
        self.heard = [begin] * size
        self.signs: list[dict[str, Any]] = [{"idle": 0.0, "at": "its start", "host": "", "beat": 0}] * size
        self.beat = 0
        self.over = threading.Event()
        for work in (self._tell_and_listen, self._judge):  # the store may hang, the judge may not
            threading.Thread(target=work, daemon=True, name=f"rank watch {work.__name__}").start()

    def _key(self, rank: int) -> str:
        return f"alive {rank}"

    def tell(self, state: str = "") -> None:
        """Tells the others that this process lives, or how it ended."""
        self.beat += 1
        sign = {
            "beat": self.beat,
            "idle": time.monotonic() - self.moved,
            "at": self._place(),
            "host": socket.gethostname(),
        }
        self.store.set(self._key(self.rank), json.dumps(sign | {"state": state}))

    def _tell_and_listen(self) -> None:
        keys = [self._key(rank) for rank in range(self.size)]
        with suppress(dist.DistError, RuntimeError, OSError):  # the store is gone: the judge hears no one any more
            while not self.over.is_set():
                self._look()
                self.tell()
                if self.store.check(keys):
                    for rank, content in enumerate(self.store.multi_get(keys)):
                        sign = json.loads(content)
                        if sign["beat"] != self.signs[rank]["beat"]:
                            self.heard[rank] = time.monotonic()
                        self.signs[rank] = sign
                self.over.wait(self.tick)

    def _look(self) -> None:
        """Notes whether the main thread moved."""
        seen = tuple((id(frame.f_code), frame.f_lasti) for frame in self._frames())
        if seen != self.seen:
            self.seen, self.moved = seen, time.monotonic()

    def _frames(self) -> Iterator[FrameType]:
        frame = sys._current_frames().get(self.main)
        while frame is not None:
            yield frame
            frame = frame.f_back

    def _place(self) -> str:
        """Where in this package, or else at all, the main thread is."""
        frames = list(self._frames())
        own = next((frame for frame in frames if f"{os.sep}repre{os.sep}" in frame.f_code.co_filename), None)
        shown = [frame for frame in (own, *frames[:1]) if frame is not None]
        places = [f"{os.path.basename(f.f_code.co_filename)}:{f.f_lineno} in {f.f_code.co_name}" for f in shown]
        return " > ".join(dict.fromkeys(places)) or "no frame"

    def _judge(self) -> None:
        last = time.monotonic()
        while not self.over.wait(self.tick):
            now = time.monotonic()
            if now - last > self.limit / 2:  # this process was stopped itself, perhaps together with all others
                self.heard, self.moved = [now] * self.size, now
            last = now
            ended = [rank for rank in range(self.size) if self.signs[rank].get("state") == ENDED]
            if ended and now - min(self.heard[rank] for rank in ended) > GRACE:
                self._end("another process of this run ended; its message gives the reason")
            silent = [rank for rank in range(self.size) if rank != self.rank and now - self.heard[rank] > self.limit]
            if silent:
                self._end(self._describe_silent(silent))
            elif now - self.moved > self.limit and all(sign["idle"] > self.limit for sign in self.signs):
                self._end(self._describe_idle())

    def _describe_silent(self, silent: list[int]) -> str:
        one = silent[0]
        which = f"process {one} on {self.signs[one]['host'] or 'its machine'} gives"
        if len(silent) > 1:
            which = f"processes {', '.join(map(str, silent))} give"
        return (
            f"{which} no sign of life for {self.limit:.0f} s (last at {self.signs[one]['at']}): stopped, killed, or its "
            "machine or the network is down"
        )

    def _describe_idle(self) -> str:
        places = "\n".join(f"  process {rank} on {sign['host']}: {sign['at']}" for rank, sign in enumerate(self.signs))
        return f"no process has moved for {self.limit:.0f} s (--runtime.stuck-minutes). They are at\n{places}"

    def _end(self, reason: str) -> None:
        """Ends this process, whatever its main thread does."""
        if self.over.is_set():
            return
        print(
            f"repre: process {self.rank} of {self.size} ends: {reason}\nEverything saved so far is intact; run the same "
            "command again to resume. The stack of this process:",
            file=sys.stderr,
            flush=True,
        )
        traceback.print_stack(sys._current_frames().get(self.main), file=sys.stderr)
        sys.stderr.flush()
        time.sleep(2 * self.tick)  # this process may host the store by which the others come to the same conclusion
        os._exit(RunError.code)


@contextmanager
def watching(store: dist.Store, *, rank: int, size: int, limit: float) -> Iterator[None]:
    """Inside, this process ends when the others hang; see `RankWatch`."""
    watch = RankWatch(store, rank=rank, size=size, limit=limit)
    try:
        yield
    except BaseException:
        watch.over.set()
        with suppress(dist.DistError, RuntimeError, OSError):
            watch.tell(ENDED)
        raise
    finally:
        watch.over.set()


def meet(store: dist.Store, *, rank: int, size: int, seconds: float) -> list[str]:
    """Waits until all processes are there; returns the name of each one's machine.

    Raises:
        RunError: some are not there in time.
    """
    store.set(f"here {rank}", socket.gethostname())
    keys = [f"here {other}" for other in range(size)]
    try:
        store.wait(keys, timedelta(seconds=seconds))
    except (dist.DistError, RuntimeError) as error:
        missing = [number for number, key in enumerate(keys) if not store.check([key])]
        raise RunError(
            f"{counted(len(missing), 'process')} of {size} did not start within {seconds:.0f} s: {missing}; their messages "
            "give the reason. Start all of them together",
            kind="lost",
        ) from error
    return [name.decode() for name in store.multi_get(keys)]
