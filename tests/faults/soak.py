"""A long tiny run: memory, open files, threads and disk use stay constant, logs rotate. And a clock that jumps."""

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
from tests.faults.common import (
    ForkedCommand,
    Row,
    bit_equal,
    cli_arguments,
    has_each_step_once,
    logged_steps,
    reference_run,
    run_command,
    tiny_run,
)

LOG_BYTES = 1_000
"""Size at which this run's log rotates, so that it does within minutes."""
MAX_GROWTH = 0.03
"""Most by which memory may grow from the second to the last quarter of the time, as a share."""
STEPS_PER_VALIDATION = 64
"""Eight epochs of eight steps."""


@dataclass(frozen=True)
class Sample:
    """The run and its worker processes at one moment."""

    step: int
    memory: int
    """Bytes of memory (proportional set size)."""
    files: int
    """Open files."""
    threads: int
    rotating_bytes: int
    """Bytes of checkpoints, snapshots and logs, which replace older ones."""
    total_bytes: int
    """Bytes of the run's folder."""


def rows(folder: Path, *, short: bool = False, seconds: float = 120.0) -> Iterator[Row]:
    yield _jumping_clock(folder)
    yield _long_run(folder, seconds=5.0 if short else seconds, short=short)


def _long_run(folder: Path, *, seconds: float, short: bool) -> Row:
    n_samples = max(60, round(seconds))
    config = tiny_run(folder / "soak", epochs=10**6)
    config = replace(config, runtime=replace(config.runtime, workers=1, eval_every_epochs=8))
    command = ForkedCommand(cli_arguments(config, folder), folder / "soak.txt", before=_rotate_logs_early)
    out, samples = Path(config.out), list[Sample]()
    while not ((out / "metrics.jsonl").is_file() and (out / "checkpoints/last.pt").is_file()):
        time.sleep(0.1)
    for _ in range(n_samples):
        time.sleep(seconds / n_samples)
        samples.append(_sample(command.pid, out))
    command.signal(signal.SIGTERM)
    code = command.wait()

    second, last = samples[len(samples) // 4 : len(samples) // 2], samples[-len(samples) // 4 :]
    memory_growth = mean(s.memory for s in last) / mean(s.memory for s in second) - 1
    file_growth = max(s.files for s in last) - max(s.files for s in second)
    thread_growth = max(s.threads for s in last) - max(s.threads for s in second)
    rotating_growth = max(s.rotating_bytes for s in last) / max(s.rotating_bytes for s in second) - 1
    appended = [s.total_bytes - s.rotating_bytes for s in (second[0], last[-1])]
    bytes_per_step = (appended[1] - appended[0]) / (last[-1].step - second[0].step)
    logs = sorted(path.name for path in out.glob("log*.txt"))
    rotated = len(logs) == 4 and all((out / name).stat().st_size < 2 * LOG_BYTES for name in logs)
    steps = logged_steps(out)
    complete = steps == list(range(1, len(steps) + 1))
    if short:  # batches in transit are open files too: few samples say little
        constant = file_growth < 8 and thread_growth < 8
    else:
        constant = memory_growth < MAX_GROWTH and rotated and file_growth < 1 and thread_growth < 1
    return Row(
        "Long run",
        f"{len(steps)} steps and {len(steps) // STEPS_PER_VALIDATION} validations in {seconds / 60:.0f} minutes, a "
        "checkpoint after every step",
        1,
        f"memory changed by {100 * memory_growth:+.1f} % between the second and the last quarter (at the end "
        f"{last[-1].memory / 1e6:.0f} MB), open files by {file_growth:+.1f}, threads by {thread_growth:+.1f}, checkpoints, "
        f"snapshots and logs by {100 * rotating_growth:+.1f} %; metrics, events and panels grew by {bytes_per_step:.0f} "
        f"bytes a step; {len(logs)} logs of at most {2 * LOG_BYTES // 1000} KB; each step once: {complete}; ended by "
        f"SIGTERM with code {code}",
        "nothing",
        code == 143 and complete and constant and rotating_growth < 0.1,
        details={
            "samples": [
                [s.step, s.memory, s.files, s.threads, s.total_bytes] for s in samples[:: max(1, len(samples) // 60)]
            ]
        },
    )


def _rotate_logs_early() -> None:
    run_folder.MAX_LOG_BYTES = LOG_BYTES


def _jumping_clock(folder: Path) -> Row:
    """Moves the clock by a year at every reading. A run measures time by a clock that nobody sets."""
    reference, config = reference_run(folder / "reference"), tiny_run(folder / "jumping")
    code, _ = run_command(config, folder, before=_make_clock_jump)
    equal, complete = bit_equal(reference, config), has_each_step_once(config.out)
    seconds = json.loads((Path(config.out) / "summary.json").read_text())["seconds"]
    return Row(
        "Long run",
        "the clock of the machine jumps a year back and forth (injected)",
        1,
        f"ended with code {code}; bit-equal: {equal}; each step once: {complete}; the run reports a duration of "
        f"{seconds:.0f} s",
        "nothing",
        code == 0 and equal and complete and 0 < seconds < 600,
    )


def _make_clock_jump() -> None:
    clock, direction = time.time, itertools.cycle((1, -1))
    time.time = lambda: clock() + next(direction) * 365 * 86400


def _sample(pid: int, out: Path) -> Sample:
    pids = [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    processes = [Path(f"/proc/{each}") for each in pids]
    lines = [line for process in processes for line in (process / "smaps_rollup").read_text().splitlines()]
    sizes = {
        path: path.stat().st_size for path in out.rglob("*") if path.is_file() and not path.name.endswith("partial")
    }
    rotating = [
        size for path, size in sizes.items() if path.parent.name in ("checkpoints", "snapshots") or "log" in path.name
    ]
    return Sample(
        step=sum(1 for _ in open(out / "metrics.jsonl", "rb")),
        memory=1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")),
        files=sum(len(os.listdir(process / "fd")) for process in processes),
        threads=sum(len(os.listdir(process / "task")) for process in processes),
        rotating_bytes=sum(rotating),
        total_bytes=sum(sizes.values()),
    )
