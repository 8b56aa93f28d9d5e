"""Runs killed at a random time, and at every disk operation of a checkpoint."""

import mmap
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from repre.training import run_state, step
from repre.training.checkpoint import load_checkpoint, load_latest, save_checkpoint
from repre.training.loop import train
from repre.training.monitoring.validator import Validator
from repre.training.run_folder import RunFolder
from tests.faults.common import (
    ForkedCommand,
    Row,
    bit_equal,
    cli_arguments,
    has_each_step_once,
    reference_run,
    run_command,
    run_in_fork,
    tiny_run,
)
from tests.faults.disk_faults import DiskFault

ACTIVITIES = ("start or end", "step", "checkpoint", "metrics", "validation")


def rows(folder: Path, *, short: bool = False) -> Iterator[Row]:
    torch.set_num_threads(1)
    yield kill_at_random(folder, times=2 if short else 50)
    yield kill_in_checkpoint(folder, stride=301 if short else 1)
    yield kill_in_run(folder, times=1 if short else 12)


def kill_at_random(folder: Path, *, times: int) -> Row:
    """Kills runs after a random time and starts the same command again until each run is finished."""
    rng = random.Random(0)
    killed_in, finished, equal, complete = Counter[str](), 0, 0, 0
    started = time.monotonic()
    reference = reference_run(folder / "reference")
    longest = 0.5 * (time.monotonic() - started)
    activity = mmap.mmap(-1, 1)
    processes = processes_of_run = 0
    while killed_in.total() < times or finished == 0 or processes_of_run:
        config = tiny_run(folder / f"killed{finished}")
        config = replace(config, runtime=replace(reference.runtime, workers=finished % 3))
        command = ForkedCommand(
            cli_arguments(config, folder),
            folder / f"killed{finished}.txt",
            before=lambda: record_activity(activity),
        )
        processes += 1
        processes_of_run += 1
        if killed_in.total() < times:
            time.sleep(rng.uniform(0.0, longest))
            command.signal()
        code = command.wait()
        if code == -signal.SIGKILL:
            killed_in[ACTIVITIES[activity[0]]] += 1
        elif code == 0:
            finished += 1
            equal += bit_equal(reference, config)
            complete += has_each_step_once(config.out)
            processes_of_run = 0
        else:
            raise RuntimeError(f"exit code {code}: {command.output()[-2000:]}")
    counts = ", ".join(f"{count} in {name}" for name, count in killed_in.most_common())
    return Row(
        "Kill",
        "SIGKILL at a random time, with 0, 1 and 2 worker processes; then the same command again",
        killed_in.total(),
        f"{processes} processes finished {finished} runs (killed: {counts}); {equal} of {finished} bit-equal to an "
        f"uninterrupted run; {complete} of {finished} have each step once in metrics.jsonl",
        "the current step" if equal == finished else "weights",
        equal == complete == finished,
    )


def record_activity(activity: mmap.mmap) -> None:
    """Makes this process write the index of its current activity into shared memory, for the process that kills it."""

    def record(owner: Any, name: str, index: int) -> None:
        function = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            before, activity[0] = activity[0], index
            try:
                return function(*args, **kwargs)
            finally:
                activity[0] = before

        setattr(owner, name, call)

    activity[0] = 0
    record(step, "forward_backward", 1)
    record(run_state, "save_checkpoint", 2)
    record(RunFolder, "append_metrics", 3)
    record(Validator, "validate", 4)


def kill_in_checkpoint(folder: Path, *, stride: int) -> Row:
    """Kills a process that saves the third checkpoint of a run, at each of its disk operations in turn."""
    config = reference_run(folder / "saved")
    state = load_checkpoint(Path(config.out) / "checkpoints/last.pt")
    last, previous = folder / "checkpoints/last.pt", folder / "checkpoints/previous.pt"
    last.parent.mkdir()

    def save(number: int) -> None:
        save_checkpoint(last, {**state, "step": number}, backup=previous)

    def count() -> Counter[str]:
        save(1)
        fault = DiskFault(-1).install()
        save(2)
        return fault.counts

    def die_while_saving(position: int) -> None:
        DiskFault(position).install()
        save(3)

    operations: Counter[str] = run_in_fork(count)
    old = new = neither = 0
    positions = range(0, operations.total(), stride)
    for position in positions:
        for number in (1, 2):
            save(number)
        code = run_in_fork(partial(die_while_saving, position))
        loaded = load_latest(last, previous)
        if code != -signal.SIGKILL or loaded is None or loaded[1] is not None:
            neither += 1
        elif loaded[0]["step"] == 2:
            old += 1
        elif loaded[0]["step"] == 3:
            new += 1
    counts = ", ".join(f"{count} {name}" for name, count in operations.items())
    return Row(
        "Kill",
        f"SIGKILL at every write, fsync, link and rename of a checkpoint ({counts})",
        len(positions),
        f"the previous checkpoint was intact {old} times, the new one {new} times, neither {neither} times",
        "nothing saved" if not neither else "a checkpoint",
        neither == 0 and old + new == len(positions),
    )


def kill_in_run(folder: Path, *, times: int) -> Row:
    """Kills runs at random disk operations; the same command finishes them."""
    reference = reference_run(folder / "uninterrupted")

    def count() -> int:
        fault = DiskFault(-1).install()
        train(tiny_run(folder / "counted"))
        return fault.counts.total()

    operations: int = run_in_fork(count)
    rng = random.Random(1)
    killed = equal = complete = 0
    for number in range(times):
        config = tiny_run(folder / f"dying{number}")
        code, _ = run_command(config, folder, before=DiskFault(rng.randrange(operations)).install)
        killed += code == -signal.SIGKILL
        code, output = run_command(config, folder)
        assert code == 0, output[-2000:]
        equal += bit_equal(reference, config)
        complete += has_each_step_once(config.out)
    return Row(
        "Kill",
        f"SIGKILL at random disk operations out of the {operations} of a run; then the same command again",
        killed,
        f"{equal} of {times} runs bit-equal to an uninterrupted run, {complete} with each step once",
        "the current step" if equal == times else "weights",
        equal == complete == killed == times,
    )
