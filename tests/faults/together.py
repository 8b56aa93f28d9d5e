"""Several commands on one folder or one output, locks that dead processes left, orphans, caches that cannot be written."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

from repre.utils import folder_lock
from tests.data.loading.test_workers import SPAWNED, consume_and_die
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
from tests.faults.disk_faults import can_mount, mount_disk
from tests.faults.evaluations import Bench, seconds_until_ended

ROOT = Path(__file__).parents[2]


def rows(folder: Path, *, short: bool = False) -> Iterator[Row]:
    torch.set_num_threads(1)
    yield _orphans(folder, [] if short else ["spawn", "forkserver"])
    bench = Bench(folder)
    yield _twice(bench, ["embed"] if short else ["finetune", "knn", "segment", "embed", "predict"])
    reference_run(folder / "reference")
    yield _train_evaluate_report(folder, epochs=3 if short else 6)
    yield _two_trainings(folder)
    yield _stale_locks(folder, [f"{os.getpid()}"] if short else ["", f"{os.getpid()}", "another-host 1"])
    yield _vanished(folder)
    yield _closed_cache(bench, ["segment"] if short else ["knn", "linear", "segment"])


def _orphans(folder: Path, starts: list[str]) -> Row:
    """Kills a process whose workers are stuck in handing over items that fill a pipe."""
    slowest = 0.0
    for by_thread in (False, True):
        read, write = os.pipe()
        if (pid := os.fork()) == 0:
            os.dup2(write, 1)
            sys.stdout = os.fdopen(1, "w")
            if by_thread:
                threading.Thread(target=consume_and_die, args=(1e-6,)).start()
                time.sleep(100)
            consume_and_die(1e-6)
        os.close(write)
        os.waitpid(pid, 0)
        killed = time.monotonic()
        with open(read) as file:  # ends when nobody holds the output any more
            workers = [int(worker) for worker in file.read().split()]
        slowest = max(slowest, seconds_until_ended(workers), time.monotonic() - killed)
    for start in starts:
        program = folder / f"{start}.py"
        program.write_text(SPAWNED)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
        done = subprocess.run(
            [sys.executable, str(program), start], stdout=subprocess.PIPE, text=True, env=environment, check=False
        )
        slowest = max(slowest, seconds_until_ended([int(worker) for worker in done.stdout.split()]))
    how = ["forked", "forked by a thread", *starts]
    return Row(
        "Orphans",
        f"SIGKILL to a process whose two workers wait to hand over items that fill a pipe ({', '.join(how)})",
        len(how),
        f"all workers ended at most {slowest:.2f} s after their parent, and nobody held its output",
        "nothing",
        slowest < 2,
    )


def _twice(bench: Bench, names: list[str]) -> Row:
    """Starts every command twice at the same moment, with the same output."""
    right = told = 0
    for name in names:
        whole, _ = bench.reference(name)
        place = bench.folder / f"{name}-twice"
        place.mkdir()
        commands = [bench.start(name, place, workers=0) for _ in range(2)]
        codes = [command.wait() for command in commands]
        output = commands[0].output()
        refused = "another process (" in output
        right += bench.read(place) == whole and codes.count(0) >= 1 and "Traceback" not in output
        told += refused or codes == [0, 0]
    return Row(
        "Two commands",
        f"the same command twice at once, into the same place: {', '.join(names)}",
        len(names),
        f"{right} of {len(names)} wrote what one alone writes; {told} times the second one waited and ended with code 0, or "
        "said which process writes there",
        "nothing",
        right == told == len(names),
    )


def _train_evaluate_report(folder: Path, *, epochs: int) -> Row:
    """Evaluates and reports a run again and again while it trains."""
    config = tiny_run(folder / "busy", epochs=epochs)
    alone = replace(config, out=str(folder / "alone"))
    assert run_command(alone, folder)[0] == 0
    training = ForkedCommand(cli_arguments(config, folder), folder / "busy.txt")
    run, codes, whole, count = Path(config.out), [], 0, 0
    while not (run / "checkpoints/last.pt").is_file():
        assert training.poll() is None, training.output()[-2000:]
        time.sleep(0.01)
    while training.poll() is None or not count:
        count += 1
        commands = [
            ForkedCommand(["report", str(run)], folder / "report.txt"),
            ForkedCommand(
                ["eval", "knn", "--encoder", str(run), "--data", "scenes:16:32", "--runtime.workers", "0"],
                folder / "knn.txt",
            ),
        ]
        codes += [command.wait() for command in commands]
        whole += (run / "report.html").read_text().rstrip().endswith("</html>")
    code = training.wait()
    equal, complete = bit_equal(alone, config), has_each_step_once(run, 8 * epochs)
    steps = complete or logged_steps(run)
    return Row(
        "Two commands",
        "a run is evaluated and reported on, both at once, again and again while it trains",
        count,
        f"training ended with code {code}, bit-equal to one that was left alone: {equal}, each step once: {steps}; "
        f"{codes.count(0)} of {len(codes)} evaluations and reports ended with code 0; {whole} of {count} reports whole",
        "nothing",
        code == 0 and equal and complete and not any(codes) and whole == count,
    )


def _two_trainings(folder: Path) -> Row:
    config = tiny_run(folder / "shared")
    first = ForkedCommand(cli_arguments(config, folder), folder / "first.txt")
    while not (Path(config.out) / ".lock").is_file():
        time.sleep(0.005)
    first.signal(signal.SIGSTOP)
    second = ForkedCommand(cli_arguments(config, folder), folder / "second.txt", before=_impatient)
    code = second.wait()
    first.signal(signal.SIGCONT)
    said = f"another process ({first.pid}) is writing to" in second.output()
    first_code = first.wait()
    equal = bit_equal(tiny_run(folder / "reference"), config)
    return Row(
        "Two commands",
        "a second training with the same output folder; the first one hangs (SIGSTOP) and goes on later",
        1,
        f"the second one ended with code {code} and named the process: {said}; the first one ended with code {first_code}, "
        f"bit-equal: {equal}",
        "nothing",
        code == 2 and said and first_code == 0 and equal,
    )


def _impatient() -> None:
    folder_lock.LOCK_TIMEOUT = 1.0


def _stale_locks(folder: Path, contents: list[str]) -> Row:
    """Leaves what a killed process, another machine or a machine before its start may leave."""
    reference, results = tiny_run(folder / "reference"), []
    for number, left in enumerate(contents):
        config = tiny_run(folder / f"stale{number}")
        command = ForkedCommand(cli_arguments(config, folder), folder / f"stale{number}.txt")
        run = Path(config.out)
        while not (run / "metrics.jsonl").is_file() or len(logged_steps_so_far(run)) < 5:
            assert command.poll() is None, command.output()[-2000:]
            time.sleep(0.005)
        command.signal()
        command.wait()
        (run / ".lock").write_text(left)
        os.utime(run / ".lock", (0, 0))
        for name in ("checkpoints/.last.pt.partial", ".metrics.csv.partial"):
            (run / name).write_bytes(b"half")
        code, _ = run_command(config, folder)
        results.append(code == 0 and bit_equal(reference, config))
    return Row(
        "Stale locks",
        "a run is killed; in its folder lie the lock and half-written files, also with the number of a process that lives, "
        "and of another machine; then the same command again",
        len(results),
        f"{sum(results)} of {len(results)} went on at once and ended bit-equal",
        "the current step",
        all(results),
    )


def logged_steps_so_far(run: Path) -> list[int]:
    """The steps in metrics.jsonl of a run that goes on; nothing while a line is half written."""
    try:
        return logged_steps(run)
    except ValueError:
        return []


def _vanished(folder: Path) -> Row:
    """Moves the folder of a run away while it trains, and back."""
    config = tiny_run(folder / "moved")
    run, away = Path(config.out), folder / "away"
    command = ForkedCommand(cli_arguments(config, folder), folder / "moved.txt")
    while not (run / "checkpoints/last.pt").is_file():
        assert command.poll() is None, command.output()[-2000:]
        time.sleep(0.005)
    run.rename(away)
    code, output = command.wait(), command.output()
    left_behind = run.exists()
    shutil.rmtree(run, ignore_errors=True)
    away.rename(run)
    resumed, _ = run_command(config, folder)
    equal = resumed == 0 and bit_equal(tiny_run(folder / "reference"), config)
    clear = code == 1 and "was moved or deleted" in output and "Traceback" not in output
    return Row(
        "Output",
        "the folder of a run is moved away while it trains, then moved back; then the same command again",
        1,
        f"ended with code {code} and one clear message: {clear}; something was written where it was: {left_behind}; then "
        f"bit-equal: {equal}",
        "the current step",
        clear and equal and not left_behind,
    )


def _closed_cache(bench: Bench, names: list[str]) -> Row:
    """Runs evaluations with a cache on a disk of 16 KiB, and where a file is in its place."""
    right = said = total = 0
    real = True
    for name in names:
        whole, _ = bench.reference(name)
        expected = {key: value for key, value in whole.items() if not key.startswith("cache")}
        for full in (True, False):
            place = bench.folder / f"{name}-{'full' if full else 'closed'}"
            place.mkdir()
            cache = place / "cache"
            mounted: Callable[[], object] | None = None
            if full:
                cache.mkdir()
                real &= can_mount()
                mounted = (lambda cache=cache: mount_disk(cache, 16_384)) if can_mount() else cache.rmdir  # type: ignore[misc]
            else:
                cache.write_text("")
            total += 1
            command = bench.start(name, place, workers=0, before=mounted)
            code, output = command.wait(), command.output()
            found = {key: value for key, value in bench.read(place).items() if not key.startswith("cache")}
            right += code == 0 and found == expected and "Traceback" not in output
            said += output.count("continues without it") == 1
    disk = "on a full disk of 16 KiB (tmpfs)" if real else "that vanishes"
    return Row(
        "Cache",
        f"a cache {disk}, and one where a file lies in the place of its folder: {', '.join(names)}",
        total,
        f"{right} of {total} ended with the same results; {said} said once that they go on without the cache",
        "nothing",
        right == total and said >= total - (0 if real else len(names)),
    )
