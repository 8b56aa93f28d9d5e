"""The pool of processes: it goes on after errors, never works on one key twice at once, and ends when the time is over."""

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from experiments.pool import Ended, run_pool

from repre.errors import RunError
from repre.utils.signals import Interrupted


class Item(NamedTuple):
    """Work for a process, by its name."""

    name: str
    key: str = ""


def run(items: list[Item], work: Callable[[Item], Any], logs: Path, *, seconds: float = 600.0) -> Any:
    """The items that ended by name, and how many were cut off or not started."""
    ended: dict[str, Ended[Item]] = {}
    cut_off, waiting = run_pool(
        items, work, processes=2, seconds=seconds, logs=logs, key=lambda item: item.key or item.name,
        done=lambda each: ended.update({each.item.name: each}),
    )  # fmt: skip
    return ended, cut_off, waiting


def misbehave(item: Item) -> str:
    print(f"working on {item.name}")
    if item.name.startswith("raises"):
        raise ValueError("broken on purpose")
    if item.name == "fails":
        raise RunError("the loss is not finite")
    if item.name == "dies":
        os._exit(3)
    return f"{item.name} in {os.getpid()}"


def test_an_error_or_the_end_of_a_process_stops_none_of_the_others(tmp_path: Path) -> None:
    names = ("raises", "dies", "fails", *(f"works {index}" for index in range(5)))
    items = [*(Item(name) for name in names[:1]), Item("after an error", "raises"), *(Item(name) for name in names[1:])]
    ended, cut_off, waiting = run(items, misbehave, tmp_path / "logs")
    assert {name: each.error for name, each in ended.items() if each.error is not None} == {
        "raises": "ValueError: broken on purpose",
        "dies": "its process ended with code 3",
        "fails": "the loss is not finite",
    }
    assert set(ended) == set(names), "the second of a key is left out after an error"
    assert all(ended[name].result.startswith(name) for name in names[3:])
    assert (cut_off, waiting) == (0, 0)
    logs = {path.name: path.read_text() for path in (tmp_path / "logs").iterdir()}
    assert set(logs) == {"process-1.log", "process-2.log"}
    printed = "".join(logs.values())
    assert all(f"working on {name}" in printed for name in names)
    assert "Traceback" in printed


def occupy(folder: Path, item: Item) -> None:
    (folder / item.key).mkdir()  # fails if another process is inside
    time.sleep(0.02)
    (folder / item.key).rmdir()


def test_items_of_a_key_are_never_in_work_at_once_and_come_in_order(tmp_path: Path) -> None:
    items = [Item(f"{key}{index}", key) for index in range(4) for key in "aab"]
    ended, *_ = run(items, partial(occupy, tmp_path), tmp_path / "logs")
    assert not [each.error for each in ended.values() if each.error]
    order = [name for name in ended if name.startswith("a")]
    assert order == sorted(order)


def hang(folder: Path, item: Item) -> None:
    (folder / f"{item.name}-{os.getpid()}").touch()
    try:
        if item.name == "signals":
            os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(600)
    finally:
        (folder / f"{item.name} cleaned up").touch()


@pytest.mark.parametrize("first", ["waits", "signals"])
def test_a_stop_ends_everything_and_lets_the_work_clean_up(tmp_path: Path, first: str) -> None:
    items = [Item(first), Item("second"), Item("third")]
    work = partial(hang, tmp_path)
    if first == "signals":
        with pytest.raises(Interrupted, match="to resume"):
            run(items, work, tmp_path / "logs")
    else:
        assert run(items, work, tmp_path / "logs", seconds=1.0) == ({}, 2, 1)
    found = {path.name for path in tmp_path.iterdir()} - {"logs"}
    pids = [int(name.partition("-")[2]) for name in found if "-" in name]
    assert len(pids) == sum(name.endswith("cleaned up") for name in found) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_without_time_nothing_starts(tmp_path: Path) -> None:
    assert run([Item("works")], misbehave, tmp_path / "logs", seconds=0.0) == ({}, 0, 1)
    assert not list((tmp_path / "logs").iterdir())
