"""Processes that hang are noticed, those that work are left alone; tests/faults/nodes.py stops real ones."""

import json
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import torch.distributed as dist

from repre.errors import RunError
from repre.utils import rank_watch
from repre.utils.rank_watch import ENDED, RankWatch, meet, watching

LIMIT = 0.6


class Peer:
    """The signs of another process, told by a thread of this one."""

    def __init__(self, store: dist.Store) -> None:
        self.store, self.over = store, threading.Event()

    def tell(self, beat: int, *, idle: float, state: str = "") -> None:
        sign = {"beat": beat, "idle": idle, "at": "loop.py:7 in step", "host": "beta", "state": state}
        self.store.set("alive 1", json.dumps(sign))

    def live(self, *, idle: float) -> None:
        def work() -> None:
            beat = 0
            while not self.over.wait(0.05):
                beat += 1
                self.tell(beat, idle=idle)

        threading.Thread(target=work, daemon=True).start()


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer(dist.HashStore())
    yield made
    made.over.set()


@pytest.fixture
def endings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The reasons for which this process would have ended."""
    found: list[str] = []

    def end(watch: RankWatch, reason: str) -> None:
        found.append(reason)
        watch.over.set()

    monkeypatch.setattr(RankWatch, "_end", end)
    return found


def watch(store: dist.Store) -> Any:
    return watching(store, rank=0, size=2, limit=LIMIT)


def test_a_process_without_a_sign_of_life(peer: Peer, endings: list[str]) -> None:
    peer.tell(1, idle=0.0)
    with watch(peer.store):
        time.sleep(3 * LIMIT)
    assert len(endings) == 1
    assert "process 1 on beta gives no sign of life for 1 s (last at loop.py:7 in step)" in endings[0]


def test_all_stand_still(peer: Peer, endings: list[str]) -> None:
    peer.live(idle=100.0)
    with watch(peer.store):
        time.sleep(3 * LIMIT)
    assert len(endings) == 1
    assert "no process has moved for 1 s (--runtime.stuck-minutes)" in endings[0]
    assert "process 0 on" in endings[0]
    assert "test_all_stand_still" in endings[0]
    assert "process 1 on beta: loop.py:7 in step" in endings[0]


def busy(depth: int) -> None:
    """Work whose place in the program changes: another thread sees a plain loop at one place only, where it gives way."""
    if depth:
        busy(depth - 1)
    for _ in range(1000):
        pass


@pytest.mark.parametrize("who_works", ["the other", "this one"])
def test_one_may_wait_for_another_that_works(peer: Peer, endings: list[str], who_works: str) -> None:
    peer.live(idle=0.0 if who_works == "the other" else 100.0)
    with watch(peer.store):
        end = time.monotonic() + 3 * LIMIT
        if who_works == "the other":
            time.sleep(3 * LIMIT)
        depth = 0
        while time.monotonic() < end:
            depth = (depth + 1) % 20
            busy(depth)
    assert endings == []


def test_a_process_that_ended_is_not_waited_for(
    peer: Peer, endings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank_watch, "GRACE", 0.1)
    monkeypatch.setattr(rank_watch, "TICK", 0.05)
    peer.tell(1, idle=0.0, state=ENDED)
    with watching(peer.store, rank=0, size=2, limit=1000.0):
        time.sleep(1.0)
    assert endings == ["another process of this run ended; its message gives the reason"]


def test_a_process_that_was_stopped_itself_gives_the_others_time(
    peer: Peer, endings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    peer.tell(1, idle=0.0)
    real, jump = time.monotonic, 0.0
    monkeypatch.setattr(rank_watch.time, "monotonic", lambda: real() + jump)
    with watch(peer.store):
        time.sleep(LIMIT / 4)
        jump = 1000.0
        time.sleep(LIMIT / 2)
        assert endings == []
        time.sleep(2 * LIMIT)
    assert len(endings) == 1


def test_an_error_is_told_to_the_others(peer: Peer) -> None:
    with pytest.raises(ValueError, match="mine"), watch(peer.store):
        raise ValueError("mine")
    assert json.loads(peer.store.get("alive 0"))["state"] == ENDED


def test_who_is_missing_at_the_start() -> None:
    store = dist.HashStore()
    store.set_timeout(timedelta(seconds=0.1))
    store.set("here 2", "beta")
    with pytest.raises(RunError, match=r"1 process of 3 did not start within 0 s: \[1\]"):
        meet(store, rank=0, size=3, seconds=0.1)
    store.set("here 1", "beta")
    assert meet(store, rank=0, size=3, seconds=0.1)[1:] == ["beta", "beta"]
