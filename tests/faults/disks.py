"""Disks that are full or read-only: errors by injection, since root may write anywhere, and a limit of the kernel."""

import errno
import os
import random
import resource
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from repre.training.checkpoint import load_latest
from repre.training.loop import train
from repre.training.run_folder import RunFolder
from tests.faults.common import Row, equal, live, small, whole
from tests.faults.kills import Die, in_fork

NAMES = {errno.ENOSPC: "no space left", errno.EROFS: "read-only", errno.EIO: "input/output error"}


def rows(folder: Path, *, short: bool = False) -> Iterator[Row]:
    straight = small(folder / "straight")
    assert live(straight, folder)[0] == 0
    total, first = in_fork(lambda: _count(folder))
    draw = random.Random(3)
    for number in NAMES:
        yield _row(
            folder,
            straight.out,
            f"{os.strerror(number)} at a write, fsync, link or rename drawn from all {total} of a run (injected)",
            [partial(_failing, draw.randrange(first, total), number) for _ in range(2 if short else 8)],
        )
    yield _row(
        folder,
        straight.out,
        "No space for a line of metrics.jsonl or log.txt (injected half-way in the line)",
        [lambda n=name: _full_log(n) for name in (["append_metrics"] if short else ["append_metrics", "append_log"] * 3)],  # type: ignore[misc]
    )
    yield _row(
        folder,
        straight.out,
        "files may not become larger than 100 KB (the kernel's limit, RLIMIT_FSIZE)",
        [lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))],
    )
    if os.getuid() == 0:
        yield _read_only(folder)


def _row(folder: Path, straight: str, fault: str, breaks: list[Callable[[], object]]) -> Row:
    """Runs that break this way, and the same command again without the fault."""
    clear = loaded = same = once = 0
    for number, before in enumerate(breaks):
        config = small(folder / f"{abs(hash(fault))}-{number}")
        code, words = live(config, folder, before=before)
        clear += code in (1, 2) and "Traceback" not in words and ("intact" in words or "name another folder" in words)
        last = Path(config.out) / "checkpoints/last.pt"
        found = load_latest(last, last.with_name("previous.pt"))
        loaded += found is None or found[1] is None
        code, words = live(config, folder)
        assert code == 0, words[-2000:]
        same += equal(straight, config.out)
        once += whole(config.out)
    count = len(breaks)
    return Row(
        "Disk",
        fault,
        count,
        f"{clear} of {count} ended with code 1 or 2 and one clear message; what was saved was whole {loaded} times; with "
        f"room again {same} runs bit-equal, {once} with each step once",
        "nothing saved" if same == loaded == count else "weights",
        clear == loaded == same == once == count,
    )


def _count(folder: Path) -> tuple[int, int]:
    """How many operations a run does to its folder, and how many of them before its first step."""
    die, before = Die(-1).install(), [0]
    prepare = RunFolder.prepare

    def prepared(self: RunFolder, *words: Any) -> bool:
        done = prepare(self, *words)
        before[0] = die.count
        return done

    RunFolder.prepare = prepared  # type: ignore[method-assign]
    train(small(folder / "counted"))
    return die.count, before[0]


def _failing(at: int, number: int) -> Die:
    """This operation fails, and all that follow."""

    def act() -> None:
        raise OSError(number, os.strerror(number))

    return Die(at, act=act, stays=True).install()


def _full_log(name: str) -> None:
    """The 20th line of this file is written half, then the disk is full."""
    real, lines = getattr(RunFolder, name), [0]

    def call(self: RunFolder, what: Any) -> None:
        lines[0] += 1
        if lines[0] == (5 if name == "append_log" else 20):
            path = self.log if name == "append_log" else self.metrics
            with open(path, "a") as file:
                file.write('{"step": 20, "lo')
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        real(self, what)

    setattr(RunFolder, name, call)


def _read_only(folder: Path) -> Row:
    """As a user without rights over the folder."""
    above = folder / "closed"
    above.mkdir(mode=0o755)
    for place in (folder, *folder.glob("*.yaml")):
        place.chmod(0o755 if place.is_dir() else 0o644)
    config = small(above / "run", data=str(folder / "photos"))
    code, words = live(config, folder, before=_without_rights)
    clear = code == 2 and "name another folder" in words and "Traceback" not in words
    return Row(
        "Disk",
        "an output folder that the user may not write (as an unprivileged user)",
        1,
        f"ended with code {code}: {words.strip().splitlines()[-1].replace(str(folder), '...')[:160]}",
        "nothing",
        clear and not Path(config.out).exists(),
    )


def _without_rights() -> None:
    """Gives root's rights up where the run first touches its folder; modules that are imported before need them."""
    prepare = RunFolder.prepare

    def prepared(self: RunFolder, *words: Any) -> bool:
        os.setuid(65534)
        return prepare(self, *words)

    RunFolder.prepare = prepared  # type: ignore[method-assign]
