"""Measures the tasks of a runner in several processes on one device, until the time is over."""

import os
from functools import partial

from experiments.methods import Task
from experiments.pool import Ended, run_pool
from experiments.runner import Runner
from repre.errors import RunError, counted


def share_tasks(tasks: list[Task], runner: Runner, *, processes: int, seconds: float) -> None:
    """Measures tasks in their order. Each result and each error is one line; everything else goes to WORK/logs.

    Tasks of one method and seed never run at once, because they share a training. What runs when the time is over is cut
    off: a training goes on in the next run of the same command.

    Args:
        processes: how many tasks are measured at once.
        seconds: when everything ends.
    """
    work = runner.folders.work
    # equal models of different processes, and of later runs, are compiled once
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(work / "compiled"))

    def show(ended: Ended[Task]) -> None:
        task = ended.item
        if ended.error is not None:
            print(f"{task.method.name} seed {task.seed} {task.evaluation}: {ended.error}; see {work}/logs", flush=True)
        elif ended.result:
            print(ended.result, flush=True)

    cut_off, waiting = run_pool(
        tasks,
        partial(measure, runner),
        processes=processes,
        seconds=seconds,
        logs=work / "logs",
        done=show,
        key=lambda task: (task.method.name, task.seed),
    )
    if cut_off or waiting:
        print(f"out of time: {counted(cut_off, 'task')} cut off, {waiting} not started; run the same command to resume")


def measure(runner: Runner, task: Task) -> str:
    """Measures a task, unless that is done; returns the lines to show.

    Raises:
        RunError: the training failed, or another command works on it.
    """
    lines: list[str] = []
    runner.report = lines.append
    with runner.lock(task.method, task.seed) as acquired:
        if not acquired:
            raise RunError("another command works on this method and seed")
        if not runner.is_done(task) and not runner.measure_or_record_failure(task):
            raise RunError(f"failed: {lines[-1].partition(' failed: ')[2]}")
    return "\n".join(lines)
