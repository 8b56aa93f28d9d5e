"""A long run at toy size: memory, open files, threads and disk stay flat, logs rotate. And a clock that jumps."""

import itertools
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

from repre.training import run_folder
from tests.faults.common import Life, Row, command, equal, live, small, steps, whole

LOG_BYTES = 1_000
"""Size of a log of this run, so that it rotates within minutes."""
GROWTH = 0.03
"""Share by which memory may be larger in the last quarter of the time than in the second."""


@dataclass
class Sample:
    """The run at one moment: its own process and those that decode for it."""

    step: int
    memory: int
    files: int
    threads: int
    kept: int
    """Bytes of checkpoints, snapshots and logs, which replace older ones."""
    all: int
    """Bytes of the whole folder."""


def rows(folder: Path, *, short: bool = False, seconds: float = 120.0) -> Iterator[Row]:
    yield _clock(folder)
    seconds = 15.0 if short else seconds
    config = small(folder / "soak", epochs=10**6)
    config = replace(config, runtime=replace(config.runtime, workers=1, eval_every_epochs=8))
    life = Life(
        command(config, folder), folder / "soak.txt", before=lambda: setattr(run_folder, "MAX_LOG_BYTES", LOG_BYTES)
    )
    out, samples, end = Path(config.out), list[Sample](), time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(min(1.0, seconds / 60))
        if (out / "metrics.jsonl").is_file() and (out / "checkpoints/last.pt").is_file():
            samples.append(_sample(life.pid, out))
    life.signal(signal.SIGTERM)
    code = life.wait()
    begin, last = samples[len(samples) // 4 : len(samples) // 2], samples[-len(samples) // 4 :]
    growth = mean(s.memory for s in last) / mean(s.memory for s in begin) - 1
    files, threads = (
        max(getattr(s, n) for s in last) - max(getattr(s, n) for s in begin) for n in ("files", "threads")
    )
    kept = max(s.kept for s in last) / max(s.kept for s in begin) - 1
    rest = (last[-1].all - last[-1].kept - begin[0].all + begin[0].kept) / (last[-1].step - begin[0].step)
    logs = sorted(path.name for path in out.glob("log*.txt"))
    rotated = len(logs) == 4 and all((out / name).stat().st_size < 2 * LOG_BYTES for name in logs)
    found = steps(out)
    once = found == list(range(1, len(found) + 1))
    # batches on their way are open files too: few samples say little
    flat = files < 8 and threads < 8 if short else growth < GROWTH and rotated and files < 0.5 and threads < 0.5
    yield Row(
        "Long run",
        f"{len(found)} steps and {len(found) // 64} looks in {seconds / 60:.0f} minutes, a checkpoint after every step",
        1,
        f"memory changed by {100 * growth:+.1f} % between the second and the last quarter (at the end "
        f"{last[-1].memory / 1e6:.0f} MB), open files by {files:+.1f}, threads by {threads:+.1f}, checkpoints, snapshots "
        f"and logs by {100 * kept:+.1f} %; metrics, events and panels grew by {rest:.0f} bytes a step; {len(logs)} logs of "
        f"at most {2 * LOG_BYTES // 1000} KB; each step once: {once}; SIGTERM ended it with code {code}",
        "nothing",
        code == 143 and once and flat and kept < 0.1,
        details={
            "samples": [[s.step, s.memory, s.files, s.threads, s.all] for s in samples[:: max(1, len(samples) // 60)]]
        },
    )


def _clock(folder: Path) -> Row:
    """A year forth or back at every look at the clock; a run measures time by one that nobody sets."""
    straight, config = small(folder / "straight"), small(folder / "jumping")
    codes = [live(straight, folder)[0], live(config, folder, before=_jump)[0]]
    same, once = equal(straight.out, config.out), whole(config.out)
    seconds = json.loads((Path(config.out) / "summary.json").read_text())["seconds"]
    return Row(
        "Long run",
        "the clock of the machine jumps a year back and forth (injected)",
        1,
        f"ended with codes {codes}; bit-equal: {same}; each step once: {once}; the run says that it took {seconds:.0f} s",
        "nothing",
        not any(codes) and same and once and 0 < seconds < 600,
    )


def _jump() -> None:
    real, turn = time.time, itertools.cycle((1, -1))
    time.time = lambda: real() + next(turn) * 365 * 86400  # type: ignore[assignment]


def _sample(pid: int, out: Path) -> Sample:
    pids = [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    places = [Path(f"/proc/{number}") for number in pids]
    lines = [line for place in places for line in _lines(place / "smaps_rollup") if line.startswith("Pss:")]
    sizes = {
        path: path.stat().st_size for path in out.rglob("*") if path.is_file() and not path.name.endswith("partial")
    }
    kept = [
        size for path, size in sizes.items() if path.parent.name in ("checkpoints", "snapshots") or "log" in path.name
    ]
    return Sample(
        step=sum(1 for _ in open(out / "metrics.jsonl", "rb")),
        memory=1024 * sum(int(line.split()[1]) for line in lines),
        files=sum(len(os.listdir(place / "fd")) for place in places),
        threads=sum(len(os.listdir(place / "task")) for place in places),
        kept=sum(kept),
        all=sum(sizes.values()),
    )


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()
