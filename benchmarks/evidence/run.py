"""Measures what the plan lists and is not measured yet, until done or out of time.

    python -m benchmarks.evidence.run --preset cpu --only confirmatory --hours 2.5 --download
    python -m benchmarks.evidence.run --preset gpu                         # everything; call it again to go on
    python -m benchmarks.evidence.run --preset gpu --only 2 stamps --seeds 1 --waves 1

Several calls may run beside each other and share the work. Every figure is one JSON file,
RESULTS/PRESET/START/seed0-EVALUATION.json, and every training one, seed0-train.json.
"""

import argparse
import fcntl
import hashlib
import json
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from benchmarks.evidence import measure
from benchmarks.evidence.baselines import register
from benchmarks.evidence.data import DATA, ensure
from benchmarks.evidence.packages import download
from benchmarks.evidence.plan import TITLES, WAVES, Plan, Start, Task, tasks
from benchmarks.evidence.presets import PRESETS, Preset
from benchmarks.evidence.turns import longer
from benchmarks.machine import machine

import repre
from repre.api import Run, pretrain
from repre.checkpoint import write_json
from repre.config import RunConfig, differences, from_dict, identity, to_dict
from repre.errors import RunError, UserError
from repre.evaluate.runtime import RuntimeOptions
from repre.ops.signals import Interrupted

RESULTS = Path(__file__).parent / "results"
WORK = Path(__file__).parents[2] / "runs" / "evidence"


@dataclass(frozen=True)
class Places:
    """Where things lie; none of it changes a figure."""

    packages: Path
    data: Path
    work: Path
    results: Path


class Runner:
    """Works through a list of tasks."""

    def __init__(self, preset: Preset, places: Places) -> None:
        self.preset, self.places = preset, places
        self.results = places.results / preset.name
        self.runtime = RuntimeOptions(
            device=preset.device,
            precision=preset.precision,
            workers=preset.workers,
            cache=places.work / "cache",
            cache_gib=4,
        )
        self.starts = {row.start.name: row.start for row in Plan(preset).rows()}

    @cached_property
    def machine(self) -> dict[str, Any]:
        """What measures: the computer and the code."""
        return machine(self.preset.device) | {"source": source_digest()}

    def go(self, todo: list[Task], *, hours: float | None) -> int:
        """How many figures are left; those that another call works at are left to it."""
        for start, seed in {(task.start.name, task.seed): (task.start, task.seed) for task in todo}.values():
            self.check_config(start, seed)
        for task in todo:
            self.check_figure(task)
        begun, left = time.monotonic(), [task for task in todo if not self.path(task).is_file()]
        print(f"{len(todo) - len(left)} of {len(todo)} figures are measured already", flush=True)
        broken: set[tuple[str, int]] = set()
        while left:
            worked = False
            for task in left:
                if hours is not None and time.monotonic() - begun > 3600 * hours:
                    print(f"out of time; {len(left)} figures are left, the same command goes on", flush=True)
                    return len(left)
                with self.lock(task.start, task.seed) as mine:
                    if mine and not self.path(task).is_file() and (task.start.name, task.seed) not in broken:
                        worked = True
                        if not self.survives(task):
                            broken.add((task.start.name, task.seed))
            left = [task for task in todo if not self.path(task).is_file()]
            if all((task.start.name, task.seed) in broken for task in left):
                return len(left)
            if not worked:
                time.sleep(5)
        return 0

    def check_config(self, start: Start, seed: int) -> None:
        """Refuses figures of a start that was trained otherwise than the plan says now; they would go by its name."""
        if start.kind != "pretrain" or not self.note_path(start, seed).is_file():
            return
        noted = from_dict(RunConfig, read_json(self.note_path(start, seed))["config"])
        planned = replace(start.config, data=noted.data, seed=seed, epochs=noted.epochs)
        one, other = (identity(replace(config, views=config.rendered_views)) for config in (planned, noted))
        if found := differences(one, other):
            raise UserError(
                f"{start.name} seed {seed} was measured with another config ({found[0]}); move "
                f"{self.results / start.name} and {self.folder(start, seed)} away to measure it again"
            )

    def check_figure(self, task: Task) -> None:
        """The same of an evaluation: heads that were trained otherwise do not stand in one table."""
        planned = measure.configs(self.preset, dense=Path(), single=Path()).get(task.evaluation)
        if planned is None or not self.path(task).is_file():
            return
        measured, now = read_json(self.path(task))["config"], to_dict(planned[1])
        shared = (measured.keys() & now.keys()) - {"data", "test", "seed"}  # where it lies, and what the plan varies
        one, other = ({key: config[key] for key in shared} for config in (now, measured))
        if found := differences(one, other):
            raise UserError(
                f"{self.path(task)} was measured with another config ({found[0]}); delete it to measure it again"
            )

    def lock(self, start: Start, seed: int) -> AbstractContextManager[bool]:
        return lock(self.places.work / "locks" / f"{self.preset.name}-{start.name}-{seed}")

    def path(self, task: Task) -> Path:
        return self.results / task.start.name / f"seed{task.seed}-{task.evaluation}.json"

    def survives(self, task: Task) -> bool:
        """Measures; a training that breaks down (a loss that is not finite) is written down, and the others go on."""
        failure = self.results / task.start.name / f"seed{task.seed}-failure.json"
        try:
            self.measure(task)
        except Interrupted:
            raise
        except RunError as error:
            failure.parent.mkdir(parents=True, exist_ok=True)
            reason = self.without_places(str(error))
            write_json(
                failure, {"start": task.start.name, "seed": task.seed, "failure": reason, "machine": self.machine}
            )
            print(f"{task.start.name} seed {task.seed} {task.evaluation} broke down: {reason}", flush=True)
            return False
        failure.unlink(missing_ok=True)
        return True

    def measure(self, task: Task) -> None:
        begun = time.monotonic()
        spec = self.spec(task.start, task.seed)
        dense, single = (self.data(one) for one in (task.start.dense, task.start.single))
        found = measure.evaluate(
            task.evaluation, spec, self.preset, dense=dense, single=single, seed=task.seed, runtime=self.runtime,
            out=self.folder(task.start, task.seed) / "evaluations",
        )  # fmt: skip
        content = {
            "preset": self.preset.name,
            "start": task.start.name,
            "seed": task.seed,
            "evaluation": task.evaluation,
            "data": (task.start.single if task.evaluation in measure.WHOLE_IMAGE else task.start.dense).name,
            **self.without_places(found),
            "seconds": round(time.monotonic() - begun, 2),
            "machine": self.machine,
        }
        self.results.joinpath(task.start.name).mkdir(parents=True, exist_ok=True)
        write_json(self.path(task), content)
        shown = " ".join(f"{key} {value:.4f}" for key, value in found["metrics"].items() if "/" not in key)
        print(f"{time.strftime('%H:%M')} {task.start.name} seed {task.seed} {task.evaluation}: {shown}", flush=True)

    def spec(self, start: Start, seed: int) -> str:
        """What `--encoder` would say; trains what is not trained yet."""
        folder = self.folder(start, seed)
        if start.kind == "pretrain":
            self.pretrain(start, seed)
            return str(folder)
        config = start.config.encoder_at_size
        if start.kind == "random":
            return measure.random_spec(config)
        if not (folder / "encoder").is_dir():
            begun = time.monotonic()
            found = measure.supervise(
                config, self.preset, data=self.data(start.data), seed=seed, runtime=self.runtime, out=folder
            )
            content = {"metrics": found["metrics"], "seconds": round(time.monotonic() - begun, 2)}
            self.note(start, seed, folder / "encoder", content)
        return str(folder / "encoder")

    def pretrain(self, start: Start, seed: int) -> None:
        folder = self.folder(start, seed)
        finished = (folder / "summary.json").is_file()
        if finished and self.note_path(start, seed).is_file():
            return
        ratio = self.time_ratio(start, seed)
        data = self.data(start.data)
        images = f"fashion-mnist:{data}" if start.data.kind == "fashion-mnist" else str(data / "train" / "images")
        epochs = max(1, round(start.config.epochs * ratio))
        config = replace(start.config, data=images, out=str(folder), epochs=epochs, seed=seed)
        summary = (Run(folder) if finished else pretrain(config)).summary
        kept = ("steps", "epochs", "images", "seconds", "images_per_s", "final", "costs", "monitor_seconds")
        plain = to_dict(replace(config, data=start.data.name, out=""))
        taken = {} if start.as_long_as is None else {"time_ratio": ratio}
        self.note(start, seed, folder, {"config": plain, **taken, **{key: summary[key] for key in kept}})

    def time_ratio(self, start: Start, seed: int) -> float:
        """How many times as long as its config says this start is trained: as long as `as_long_as` takes. Measured once."""
        if start.as_long_as is None:
            return 1.0
        work = self.places.work / "turns" / f"{self.preset.name}-{start.name}-{seed}"
        kept = work.with_suffix(".json")
        for path in (self.note_path(start, seed), kept):
            if path.is_file():
                return float(read_json(path)["time_ratio"])
        other, images = self.starts[start.as_long_as], self.data(start.data) / "train" / "images"
        ratio = longer(other.config, start.config, images=images, work=work)
        write_json(kept, {"time_ratio": ratio})
        return ratio

    def data(self, data: Any) -> Path:
        return ensure(data, folder=self.places.data, packages=self.places.packages)

    def folder(self, start: Start, seed: int) -> Path:
        return self.places.work / self.preset.name / f"{start.name}-seed{seed}"

    def note_path(self, start: Start, seed: int) -> Path:
        return self.results / start.name / f"seed{seed}-train.json"

    def note(self, start: Start, seed: int, encoder: Path, content: dict[str, Any]) -> None:
        """Writes down what a training was. Figures of an earlier one that gave other weights (the same seed on another
        processor does) go, and are measured again: all figures of a start and seed are of one encoder."""
        path, weights = self.note_path(start, seed), measure.fingerprint(str(encoder))
        before = read_json(path).get("weights") if path.is_file() else None
        path.parent.mkdir(parents=True, exist_ok=True)
        if weights != before:
            stale = [old for name in WAVES if (old := path.with_name(f"seed{seed}-{name}.json")).is_file()]
            for old in stale:
                old.unlink()
            if stale:
                print(
                    f"{start.name} seed {seed} has other weights than before; {len(stale)} figures are measured again"
                )
        write_json(path, {"start": start.name, "seed": seed, **content, "weights": weights, "machine": self.machine})

    def without_places(self, value: Any) -> Any:
        """The same with names of folders cut out: they say nothing and differ between machines."""
        if isinstance(value, dict):
            return {key: self.without_places(item) for key, item in value.items() if key not in ("path", "runtime")}
        if isinstance(value, list | tuple):
            return [self.without_places(item) for item in value]
        if isinstance(value, str):
            for name, place in (
                ("DATA", self.places.data),
                ("WORK", self.places.work),
                ("RESULTS", self.places.results),
            ):
                value = value.replace(str(place), name)
        return value


def source_digest() -> str:
    """Which code measured: a hash over the package's files."""
    folder = Path(repre.__file__).parent
    parts = [path.relative_to(folder).as_posix().encode() + path.read_bytes() for path in sorted(folder.rglob("*.py"))]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:12]


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def lock(path: Path) -> Iterator[bool]:
    """Whether this process alone holds the lock; a process that ends in any way lets it go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    choices = ("confirmatory", "exploratory", *(name for name in TITLES if name != "confirmatory"))
    parser.add_argument("--only", nargs="*", choices=choices, default=[], help="tables; by default all")
    parser.add_argument("--seeds", type=int, help="only the first seeds of every row, so many")
    parser.add_argument("--waves", type=int, help="only the cheaper evaluations, so many waves of them (plan.WAVES)")
    parser.add_argument("--hours", type=float, help="begin nothing new after so many hours")
    parser.add_argument("--packages", type=Path, default=DATA / "packages", help="folder of the .deb files")
    parser.add_argument("--download", action="store_true", help="get missing packages with apt-get")
    parser.add_argument("--data", type=Path, default=DATA / "evidence", help="folder of the built data sets")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of runs and caches")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--list", action="store_true", help="say what would be measured, and stop")
    given = parser.parse_args()
    try:
        sys.exit(1 if run(given) else 0)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Interrupted as error:
        print(f"{error}; the same command goes on", file=sys.stderr)
        sys.exit(error.code)


def run(given: argparse.Namespace) -> int:
    register()
    preset = PRESETS[given.preset]
    rows = [row for row in Plan(preset).rows() if chosen(row.table, given.only)]
    if given.seeds is not None:
        rows = [replace(row, seeds=min(row.seeds, given.seeds)) for row in rows]
    todo = [task for task in tasks(rows) if given.waves is None or WAVES[task.evaluation] < given.waves]
    places = Places(*(path.resolve() for path in (given.packages, given.data, given.work, given.results)))
    runner = Runner(preset, places)
    if given.list:
        for task in todo:
            done = "measured" if runner.path(task).is_file() else "to do"
            print(f"{task.table:13}{task.start.name:45}seed {task.seed}  {task.evaluation:15}{done}")
        return 0
    if preset.device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"--preset {preset.name}: this machine, or this build of torch, has no CUDA; take --preset cpu, or add "
            "--list to see what would be measured"
        )
    if given.download and preset.packages:
        download(given.packages)
    return runner.go(todo, hours=given.hours)


def chosen(table: str, only: list[str]) -> bool:
    return not only or table in only or ("exploratory" in only and table != "confirmatory")


if __name__ == "__main__":
    main()
