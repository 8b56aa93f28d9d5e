"""Killed anywhere: at random, and at every operation of a checkpoint on the disk."""

import io
import mmap
import os
import pickle
import random
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from repre.training import checkpoint, loop
from repre.training.checkpoint import load_checkpoint, load_latest, save_checkpoint
from repre.training.monitoring.validator import Validator
from repre.training.run_folder import RunFolder
from tests.faults.common import Life, Row, command, equal, live, small, whole

PLACES = ("start or end", "step", "checkpoint", "metrics", "validation")


def at_random(folder: Path, *, times: int = 50, seed: int = 0) -> Iterator[Row]:
    """SIGKILL after a random time; the same command follows until the run is done, then the next run."""
    draw, hit, finished, same, once = random.Random(seed), Counter[str](), 0, 0, 0
    straight, begun = small(folder / "straight"), time.monotonic()
    assert live(straight, folder)[0] == 0
    longest = 0.5 * (time.monotonic() - begun)
    place = mmap.mmap(-1, 1)
    number = kills = lives = 0
    while kills < times or finished == 0 or number:
        config = replace(small(folder / f"killed{finished}"), runtime=replace(straight.runtime, workers=finished % 3))
        life = Life(command(config, folder), folder / f"killed{finished}.txt", before=lambda: note_where(place))
        lives += 1
        number += 1
        if kills < times:
            time.sleep(draw.uniform(0.0, longest))
            life.signal()
        code = life.wait()
        if code == -signal.SIGKILL:
            kills += 1
            hit[PLACES[place[0]]] += 1
        elif code == 0:
            finished += 1
            same += equal(straight.out, config.out)
            once += whole(config.out)
            number = 0
        else:
            raise RuntimeError(f"exit code {code}: {life.words()[-2000:]}")
    words = ", ".join(f"{count} in {name}" for name, count in hit.most_common())
    yield Row(
        "Kill",
        "SIGKILL at a random moment, with 0, 1 and 2 decoding processes; the same command again",
        kills,
        f"{lives} processes made {finished} runs ({words}); {same} of {finished} bit-equal to the run that was never "
        f"killed; {once} of {finished} have each step once in metrics.jsonl",
        "the step in hand" if same == finished else "weights",
        same == once == finished,
    )


def note_where(place: mmap.mmap) -> None:
    """Writes into shared memory what this process is doing, so that the one who killed it can tell."""

    def noted(owner: Any, name: str, number: int) -> None:
        real = getattr(owner, name)

        def call(*args: Any, **more: Any) -> Any:
            before, place[0] = place[0], number
            try:
                return real(*args, **more)
            finally:
                place[0] = before

        setattr(owner, name, call)

    place[0] = 0
    noted(loop, "forward_backward", 1)
    noted(loop, "save_checkpoint", 2)
    noted(RunFolder, "append_metrics", 3)
    noted(Validator, "check", 4)


class Die:
    """Counts what is done to the disk and kills the process at one of them: a write is left half done, anything else
    undone. Other acts than dying may hold for one operation, or stay for all that follow."""

    def __init__(self, at: int, *, act: Callable[[], None] | None = None, stays: bool = False) -> None:
        self.at, self.count, self.names, self.stays = at, 0, Counter[str](), stays
        self.act = act or (lambda: os.kill(os.getpid(), signal.SIGKILL))

    def now(self, name: str) -> bool:
        self.count += 1
        self.names[name] += 1
        at = self.count - 1
        return at == self.at or (self.stays and 0 <= self.at < at)

    def install(self) -> "Die":
        die = self

        class Watched(io.BufferedWriter):
            def write(self, content: Any) -> int:
                if die.now("write"):
                    super().write(bytes(content)[: len(content) // 2])
                    super().flush()
                    die.act()
                return super().write(content)

        checkpoint.open = lambda path, mode: Watched(io.FileIO(path, mode))  # type: ignore[attr-defined]
        for name in ("fsync", "replace", "link"):
            setattr(os, name, self._wrapped(name, getattr(os, name)))
        return self

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            if self.now(name):
                self.act()
            return real(*args, **more)

        return call


def at_every_operation(folder: Path, *, stride: int = 1) -> Iterator[Row]:
    """A process that saves the third checkpoint of a real run is killed at each of its operations; then the run goes on."""
    config = small(folder / "saved")
    assert live(config, folder)[0] == 0
    state = load_checkpoint(Path(config.out) / "checkpoints/last.pt")
    last, previous = folder / "kept/last.pt", folder / "kept/previous.pt"
    last.parent.mkdir()
    names = in_fork(lambda: _save_all(state, last, previous))
    total = sum(names.values())
    old = new = bad = 0
    for at in range(0, total, stride):
        for step in (1, 2):
            save_checkpoint(last, {**state, "step": step}, backup=previous)
        code = in_fork(lambda at=at: _save_dying(state, last, previous, at))  # type: ignore[misc]
        found = load_latest(last, previous)
        if code != -signal.SIGKILL or found is None or found[1] is not None:
            bad += 1
        elif found[0]["step"] == 2:
            old += 1
        elif found[0]["step"] == 3:
            new += 1
    done = ", ".join(f"{count} {name}" for name, count in names.items())
    tried = len(range(0, total, stride))
    yield Row(
        "Kill",
        f"SIGKILL at every write, fsync, link and rename of a checkpoint ({done})",
        tried,
        f"the file before was whole {old} times, the new one {new} times; {bad} times neither",
        "nothing saved" if not bad else "a checkpoint",
        bad == 0 and old + new == tried,
    )


def _save_all(state: dict[str, Any], last: Path, previous: Path) -> Counter[str]:
    save_checkpoint(last, {**state, "step": 1}, backup=previous)
    die = Die(-1).install()
    save_checkpoint(last, {**state, "step": 2}, backup=previous)
    return die.names


def _save_dying(state: dict[str, Any], last: Path, previous: Path, at: int) -> None:
    Die(at).install()
    save_checkpoint(last, {**state, "step": 3}, backup=previous)


def in_fork(work: Callable[[], Any]) -> Any:
    """Runs this in a process of its own: what it gave, or its exit code, negative for the signal that ended it."""
    back, forth = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            with open(forth, "wb") as pipe:
                pickle.dump(work(), pipe)
            code = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(forth)
    with open(back, "rb") as file:
        content = file.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return pickle.loads(content) if code == 0 else code


def in_a_run(folder: Path, *, times: int = 12) -> Iterator[Row]:
    """The same within a training run, at operations spread over the whole run; the same command finishes it."""
    straight = small(folder / "whole")
    counted: list[int] = []
    assert live(straight, folder)[0] == 0

    def count() -> int:
        die = Die(-1).install()
        loop.train(small(folder / "counted"))
        return die.count

    counted.append(in_fork(count))
    draw = random.Random(1)
    same = once = died = 0
    for number in range(times):
        config = small(folder / f"dying{number}")
        at = draw.randrange(counted[0])
        code, _ = live(config, folder, before=lambda at=at: Die(at).install())  # type: ignore[misc]
        died += code == -signal.SIGKILL
        code, words = live(config, folder)
        assert code == 0, words[-2000:]
        same += equal(straight.out, config.out)
        once += whole(config.out)
    yield Row(
        "Kill",
        f"SIGKILL at operations drawn from all {counted[0]} that a run does to its folder; the same command again",
        died,
        f"{same} of {times} runs bit-equal to the run that was never killed, {once} with each step once",
        "the step in hand" if same == times else "weights",
        same == once == died == times,
    )


def rows(folder: Path, *, short: bool = False) -> Iterator[Row]:
    torch.set_num_threads(1)
    yield from at_random(folder, times=3 if short else 50)
    yield from at_every_operation(folder, stride=97 if short else 1)
    yield from in_a_run(folder, times=2 if short else 12)
