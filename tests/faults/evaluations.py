"""Evaluations, features and predictions that are killed or asked to stop, with and without worker processes."""

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from repre.evaluation import fit
from repre.evaluation.classification import linear_fit
from repre.exporters import embeddings
from tests.faults.common import MOST_SECONDS, ForkedCommand, Row, make_photos

ENCODER = "random:vit_tiny_patch16_224[image_size=32,patch_size=8,embed_dim=32,depth=2,num_heads=2]"
FIT = ("--fit.epochs", "2", "--fit.batch-size", "8")
COMMANDS = {
    "knn": ("eval", "knn", "--data", "scenes:48:32"),
    "linear": ("eval", "linear", "--data", "scenes:32:32", "--steps", "40", "--lrs", "0.1", "--shots", "1"),
    "finetune": ("eval", "finetune", "--data", "scenes:32:32", *FIT),
    "segment": ("eval", "segment", "--data", "scenes:32:32", *FIT),
    "patch-knn": ("eval", "patch-knn", "--data", "scenes:32:32"),
    "detect": ("eval", "detect", "--data", "scenes:16:48", "--width", "16", *FIT),
    "embed": ("embed",),
    "predict": ("predict",),
    "compare": ("compare", ENCODER, "--eval", "knn", "--data", "scenes:32:32", "--seeds", "1"),
}
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}


def rows(folder: Path, *, short: bool = False) -> Iterator[Row]:
    torch.set_num_threads(1)
    bench = Bench(folder)
    for workers in (1,) if short else (0, 2):
        yield _killed(bench, ["embed"] if short else list(COMMANDS), times=1 if short else 3, workers=workers)
    for number in [signal.SIGTERM] if short else list(CODES):
        yield _stopped(bench, ["finetune"] if short else list(COMMANDS), number, times=1)


@dataclass
class Bench:
    """Starts commands that write into folders of their own, and compares what they wrote."""

    folder: Path

    def __post_init__(self) -> None:
        self.photos = make_photos(self.folder / "embedded", 48)
        self.references: dict[str, tuple[Any, float]] = {}

    def start(
        self,
        name: str,
        place: Path,
        *,
        workers: int,
        before: Callable[[], object] | None = None,
        environment: dict[str, str] | None = None,
    ) -> ForkedCommand:
        """Starts a command with its own cache and working folder in `place`.

        Args:
            before: called in the new process first, to break something there.
            environment: further variables of the process.
        """
        place.mkdir(exist_ok=True)
        kind, *rest = COMMANDS[name]
        arguments = [kind, *rest, "--out", str(place / ("out.npz" if name == "embed" else "out"))]
        if name == "embed":
            arguments += ["--encoder", ENCODER, "--data", str(self.photos)]
        elif name == "predict":
            arguments += ["--model", self.model(), str(self.photos)]
        elif name != "compare":
            arguments += ["--encoder", ENCODER]
        if name != "compare":
            arguments += ["--runtime.workers", str(workers)]

        def begin() -> None:
            os.chdir(place)
            _save_often()
            if before is not None:
                before()

        environment = (environment or {}) | {"REPRE_CACHE": str(place / "cache")}
        return ForkedCommand(arguments, place / "output.txt", before=begin, environment=environment)

    def model(self) -> str:
        """The result of a fine-tuning, to predict with."""
        self.reference("finetune")
        return str(next((self.folder / "finetune-whole" / "out").glob("*.json")))

    def reference(self, name: str) -> tuple[Any, float]:
        """What an uninterrupted command writes, and the seconds that it takes."""
        if name not in self.references:
            place = self.folder / f"{name}-whole"
            if name == "predict":
                self.model()
            started = time.monotonic()
            command = self.start(name, place, workers=0)
            code = command.wait()
            assert code == 0, command.output()[-2000:]
            self.references[name] = self.read(place), time.monotonic() - started
        return self.references[name]

    def read(self, place: Path) -> dict[str, Any]:
        """All that a command wrote, by path; of JSON the values that are no times and no paths."""
        content: dict[str, Any] = {}
        for path in sorted([*place.glob("out*"), *place.glob("out/**/*"), *place.glob("cache/features/*")]):
            key = str(path.relative_to(place))
            if path.suffix == ".json":
                content[key] = _without_times(json.loads(path.read_text()))
            elif path.suffix == ".npz":
                with np.load(path) as arrays:
                    content[key] = {name: arrays[name].tolist() for name in arrays}
            elif path.is_file() and path.suffix in (".npy", ".csv", ".safetensors", ".png"):
                content[key] = path.read_bytes()
            elif path.is_file() and path.suffix != ".md":
                content[key] = None
        if (place / "out").is_dir() and (place / "out" / "compare.md").is_file():
            content.pop("out/compare.csv", None)  # has seconds in a column
        return content


def _save_often() -> None:
    """Makes a process save after every step, so that a kill often hits a checkpoint."""
    fit.CHECKPOINT_SECONDS = linear_fit.CHECKPOINT_SECONDS = 0.0
    embeddings.embed.__wrapped__.__kwdefaults__["images_per_part"] = 8  # type: ignore[attr-defined]


def _without_times(content: Any) -> Any:
    if isinstance(content, dict):
        left_out = ("seconds", "images_per_s", "path", "results")
        return {
            name: _without_times(value) for name, value in content.items() if not any(part in name for part in left_out)
        }
    return [_without_times(value) for value in content] if isinstance(content, list) else content


def _killed(bench: Bench, names: list[str], *, times: int, workers: int) -> Row:
    rng = random.Random(workers)
    killed = orphans = 0
    slowest = 0.0
    equal, ended = Counter[str](), 0
    for name in names:
        whole, longest = bench.reference(name)
        hits = number = 0
        while hits < times and number < 10 * times:
            place, code = bench.folder / f"{name}-{workers}-{number}", -1
            number += 1
            while code != 0:
                command = bench.start(name, place, workers=workers)
                if hits < times:
                    time.sleep(rng.uniform(0, longest))
                    children = _children(command.pid)
                    command.signal()
                    orphans += len(children)
                    slowest = max(slowest, seconds_until_ended(children))
                code = command.wait()
                assert code in (0, -signal.SIGKILL), command.output()[-2000:]
                hits, killed = hits + (code != 0), killed + (code != 0)
            ended += 1
            equal[name] += bench.read(place) == whole
    return Row(
        "Evaluation",
        f"{', '.join(names)}: SIGKILL at a random time, with {workers} worker processes; then the same command again",
        killed,
        f"{equal.total()} of {ended} ended with the results, features and files of one that was not killed"
        + (f"; {orphans} workers ended at most {slowest:.1f} s after their parent" if workers else ""),
        "the step or part in hand" if equal.total() == ended else "results",
        equal.total() == ended and killed >= times * len(names) and slowest < 2,
    )


def _stopped(bench: Bench, names: list[str], number: signal.Signals, *, times: int) -> Row:
    rng = random.Random(number)
    codes, equal, sent, slowest = Counter[int](), 0, 0, 0.0
    for name in names:
        whole, longest = bench.reference(name)
        hits = turn = 0
        while hits < times and turn < 5 * times:  # some end before the signal
            turn += 1
            place = bench.folder / f"{name}-{number.name}-{turn}"
            command = bench.start(name, place, workers=1)
            time.sleep(rng.uniform(0.1, 1) * longest)
            code, seconds = command.stop(number)
            sent, slowest = sent + 1, max(slowest, seconds)
            codes[code] += 1
            hits += code != 0
            assert "Traceback" not in command.output(), command.output()[-2000:]
            command = bench.start(name, place, workers=1)
            code = command.wait()
            assert code == 0, command.output()[-2000:]
            equal += bench.read(place) == whole
    ended = ", ".join(f"{count} ended with code {code}" for code, count in sorted(codes.items()))
    return Row(
        "Evaluation",
        f"{', '.join(names)}: {number.name} at a random time, with a worker process; then the same command again",
        sent,
        f"{ended}, at most {slowest:.1f} s later; {equal} of {sent} ended with the results of one that was not stopped",
        "the step or part in hand" if equal == sent else "results",
        equal == sent
        and set(codes) <= {0, CODES[number]}
        and codes[CODES[number]] >= times * len(names)
        and slowest < MOST_SECONDS,
    )


def _children(pid: int) -> list[int]:
    """The processes that a process started; none once it has ended."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def seconds_until_ended(pids: list[int], *, longest: float = 30.0) -> float:
    """Seconds until none of these processes runs any more."""
    begin = time.monotonic()
    while any(_runs(pid) for pid in pids) and time.monotonic() - begin < longest:
        time.sleep(0.005)
    return time.monotonic() - begin


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
