"""Runs that a signal asks to stop: SIGTERM, SIGUSR1 and Ctrl-C save and exit with a known code; the run resumes."""

import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.faults.common import (
    MOST_SECONDS,
    ForkedCommand,
    Row,
    bit_equal,
    cli_arguments,
    has_each_step_once,
    make_photos,
    reference_run,
    run_command,
    tiny_run,
)

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 138}


def rows(folder: Path, *, short: bool = False) -> Iterator[Row]:
    started = time.monotonic()
    reference = reference_run(folder / "reference")
    longest, rng = 0.8 * (time.monotonic() - started), random.Random(2)
    for number, expected in [(signal.SIGTERM, CODES[signal.SIGTERM])] if short else CODES.items():
        times = 1 if short else 10
        codes, slowest, sent, equal, complete = Counter[int](), 0.0, 0, 0, 0
        while codes[expected] < times and sent < 5 * times:  # some runs finish before the signal
            config = tiny_run(folder / f"{number.name}{sent}")
            command = ForkedCommand(cli_arguments(config, folder), folder / f"{number.name}{sent}.txt")
            while "steps per epoch" not in command.output():  # then the signal handlers are installed
                time.sleep(0.01)
            time.sleep(rng.uniform(0, longest))
            code, seconds = command.stop(number)  # killed: the run was over and the report being written
            sent, slowest = sent + 1, max(slowest, seconds)
            codes[code] += 1
            code, output = run_command(config, folder)
            assert code == 0, output[-1000:]
            equal += bit_equal(reference, config)
            complete += has_each_step_once(config.out)
        ended = ", ".join(f"{count} ended with code {code}" for code, count in sorted(codes.items()))
        yield Row(
            "Preemption",
            f"{number.name} at a random time; then the same command again",
            sent,
            f"{ended}, at most {slowest:.1f} s later; {equal} of {sent} runs bit-equal, {complete} with each step once",
            "nothing" if equal == sent else "weights",
            equal == complete == sent and set(codes) <= {expected, 0} and codes[expected] == times,
        )
    yield _other_commands(folder, reference.out, times=1 if short else 5)


def _heed_interrupts() -> None:
    """Undoes that a shell has its background processes ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _other_commands(folder: Path, run: str, *, times: int) -> Row:
    """Commands that save nothing while they work, apart from `data shard`, which goes on from its last whole shard."""
    photos, rng = str(make_photos(folder / "many", 2000)), random.Random(3)
    commands = {
        "plan": ["plan", "--data", photos, "--epochs", "1", "--out", str(folder / "planned")],
        "report": ["report", run],
        "export": ["export", "--run", run, "--out", str(folder / "exported")],
        "data check": ["data", "check", photos],
        "data shard": ["data", "shard", photos, "--out", str(folder / "shards"), "--shard-mib", "1"],
    }
    codes, slowest, sent, whole = Counter[int](), 0.0, 0, 0
    for name, arguments in commands.items():
        for number in (signal.SIGTERM, signal.SIGINT):
            for turn in range(times):
                output = folder / f"{name}-{number.name}-{turn}.txt"
                command = ForkedCommand(arguments, output, before=_heed_interrupts)
                time.sleep(rng.uniform(0.05, 1.0))
                code, seconds = command.stop(number)
                sent, slowest = sent + 1, max(slowest, seconds)
                codes[code] += 1
                assert "Traceback" not in command.output(), command.output()[-2000:]
        again = ForkedCommand(arguments, folder / f"{name}-again.txt")
        code = again.wait()
        assert code == 0, again.output()[-2000:]
        whole += 1
    ended = ", ".join(f"{count} ended with code {code}" for code, count in sorted(codes.items()))
    return Row(
        "Preemption",
        f"{', '.join(commands)}: SIGTERM or SIGINT at a random time; then the same command again",
        sent,
        f"{ended}, at most {slowest:.1f} s later; then {whole} of {len(commands)} ended with code 0",
        "the shard in hand",
        set(codes) <= {0, 130, 143} and slowest < MOST_SECONDS and whole == len(commands),
    )
