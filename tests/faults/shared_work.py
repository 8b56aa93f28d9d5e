"""Embed, eval and predict with two processes: they write what one writes, and what ends one of them ends both."""

import random
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from tests.faults.common import ForkedCommand, Row
from tests.faults.evaluations import Bench
from tests.ranks import rank_environments

NAMES = ("embed", "knn", "linear", "segment", "predict")
LONGEST = 45.0
"""Seconds within which the other process ends: most often a few, and the longest where one dies while they connect."""


def rows(folder: Path, *, short: bool = False) -> Iterator[Row]:
    torch.set_num_threads(1)
    bench = Bench(folder)
    yield _equal(bench, ("embed", "knn") if short else NAMES)
    for number in [signal.SIGKILL] if short else [signal.SIGKILL, signal.SIGTERM]:
        yield _ended(bench, ("embed",) if short else (*NAMES, "finetune"), number, times=1)


def start_two(bench: Bench, name: str, place: Path) -> list[ForkedCommand]:
    return [bench.start(name, place, workers=0, environment=variables) for variables in rank_environments(2)]


def _equal(bench: Bench, names: Sequence[str]) -> Row:
    equal = 0
    codes = Counter[int]()
    for name in names:
        whole, _ = bench.reference(name)
        place = bench.folder / f"{name}-two"
        codes.update(command.wait() for command in start_two(bench, name, place))
        equal += bench.read(place) == whole
    return Row(
        "Processes",
        f"{', '.join(names)} with two processes",
        len(names),
        f"{equal} of {len(names)} wrote the results, features and files of one process, each once",
        "nothing",
        equal == len(names) and set(codes) == {0},
    )


def _ended(bench: Bench, names: Sequence[str], number: signal.Signals, *, times: int) -> Row:
    rng = random.Random(number)
    hits = together = equal = ended = 0
    slowest = 0.0
    for name in names:
        whole, longest = bench.reference(name)
        for victim in range(2):
            for turn in range(times):
                place = bench.folder / f"{name}-{number.name}-{victim}-{turn}"
                commands = start_two(bench, name, place)
                time.sleep(rng.uniform(0.2, 1.2) * longest)
                if commands[victim].poll() is None:
                    hits += 1
                    commands[victim].signal(number)
                signaled = time.monotonic()
                codes = [command.wait(2 * LONGEST) for command in commands]
                slowest = max(slowest, time.monotonic() - signaled)
                together += _agree(codes, victim, number) and "Traceback" not in commands[0].output()
                codes = [command.wait() for command in start_two(bench, name, place)]
                equal += codes == [0, 0] and (name == "finetune" or bench.read(place) == whole)
                ended += 1
    return Row(
        "Processes",
        f"{', '.join(names)} with two processes: {number.name} to one of them; then the same commands again",
        hits,
        f"{together} of {ended} times both ended, within {slowest:.1f} s, with the same code or a message about the other; "
        f"then {equal} of {ended} ended with the results and files of one process",
        "the batch or part in hand",
        together == equal == ended and slowest < LONGEST,
    )


def _agree(codes: list[int], victim: int, number: signal.Signals) -> bool:
    """Whether the codes of both are those of a command that finished before, that was stopped, or whose peer was killed."""
    other = codes[1 - victim]
    if number == signal.SIGKILL:  # a rank that is not needed any more may die
        return codes[victim] in (0, -signal.SIGKILL) and other in (0, 1)
    if victim == 1 and other == 0:
        return True
    return codes in ([0, 0], [128 + number] * 2) or codes == [128 + number, 1]  # it could not hear why rank 0 ended
