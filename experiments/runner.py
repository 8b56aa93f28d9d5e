"""Works through a list of figures: trains what is not trained, measures what is not measured.

A training has a note, RESULTS/PRESET/START/seed0-train.json, with a fingerprint of its weights; a figure is a file beside
it, seed0-EVALUATION.json, with the fingerprint of the weights that it was measured with. One whose fingerprint is another
is stale: it does not count, and is measured again as soon as the start is worked at.
"""

import fcntl
import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.machine import machine

import repre
from experiments import measure
from experiments.datasets import ensure, labels_of
from experiments.plan import WAVES, Plan, Start, Task
from experiments.presets import Preset
from experiments.time_ratio import longer
from repre.api import Run, pretrain
from repre.config import RunConfig, differences, from_dict, identity, to_dict
from repre.errors import RunError, UserError
from repre.evaluation.options import RuntimeOptions
from repre.utils.io import write_json
from repre.utils.signals import Interrupted

MEASURING = ("build", "compose", "sources", "packages", "data", "measure", "baselines", "turns")
"""Modules beside this one whose code a figure depends on."""


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
        asked = {self.path(task) for task in todo}
        todo = todo + [task for task in self.stale(todo) if self.path(task) not in asked]
        begun, left = time.monotonic(), [task for task in todo if not self.done(task)]
        print(f"{len(todo) - len(left)} of {len(todo)} figures are measured already", flush=True)
        broken: set[tuple[str, int]] = set()
        while left:
            worked = False
            for task in left:
                if hours is not None and time.monotonic() - begun > 3600 * hours:
                    print(f"out of time; {len(left)} figures are left, the same command goes on", flush=True)
                    return len(left)
                with self.lock(task.start, task.seed) as mine:
                    if mine and not self.done(task) and (task.start.name, task.seed) not in broken:
                        worked = True
                        if not self.survives(task):
                            broken.add((task.start.name, task.seed))
            left = [task for task in todo if not self.done(task)]
            if all((task.start.name, task.seed) in broken for task in left):
                return len(left)
            if not worked:
                time.sleep(5)
        return 0

    # ------------------------------------------------------------------------------------ what is there already

    def path(self, task: Task) -> Path:
        return self.results / task.start.name / f"seed{task.seed}-{task.evaluation}.json"

    def note_path(self, start: Start, seed: int) -> Path:
        return self.results / start.name / f"seed{seed}-train.json"

    def weights(self, start: Start, seed: int) -> str | None:
        """Fingerprint of the weights that this start was trained to; None of one that is not trained."""
        path = self.note_path(start, seed)
        return read_json(path).get("weights") if path.is_file() else None

    def done(self, task: Task) -> bool:
        """Whether the figure is there, and of the weights that are noted."""
        path = self.path(task)
        return path.is_file() and read_json(path).get("weights") == self.weights(task.start, task.seed)

    def stale(self, todo: list[Task]) -> list[Task]:
        """Figures of the same starts that are of other weights, wanted by these tasks or not; the cheap ones first."""
        starts = {(task.start.name, task.seed): task for task in todo}.values()
        found = (replace(task, evaluation=name) for task in starts for name in WAVES)
        return [task for task in found if self.path(task).is_file() and not self.done(task)]

    def check_config(self, start: Start, seed: int) -> None:
        """Refuses figures of a start that was trained otherwise than the plan says now; they would go by its name."""
        if start.kind == "random" or not self.note_path(start, seed).is_file():
            return
        content = read_json(self.note_path(start, seed))
        if start.kind == "supervised":
            planned, noted = measure.supervised(self.preset, start.data.name), content.get("config")
            one, other = (to_dict(planned), noted or to_dict(planned))  # older notes have none
        else:
            run = from_dict(RunConfig, content["config"])
            epochs = run.epochs if start.as_long_as else start.config.epochs
            planned = replace(start.config, data=start.data.name, seed=seed, epochs=epochs)
            one, other = (identity(replace(config, views=config.rendered_views)) for config in (planned, run))
        if found := differences(one, other):
            raise UserError(
                f"{start.name} seed {seed} was measured with another config ({found[0]}); move "
                f"{self.results / start.name} and {self.folder(start, seed)} away to measure it again"
            )

    def check_figure(self, task: Task) -> None:
        """The same of an evaluation: heads that were trained otherwise, or on other data, do not stand in one table."""
        if not self.path(task).is_file():
            return
        content = read_json(self.path(task))
        planned = measure.configs(self.preset, dense=Path(), single=Path()).get(task.evaluation)
        measured, now = content["config"], to_dict(planned[1]) if planned else {}
        shared = (measured.keys() & now.keys()) - {"data", "test", "seed"}  # where it lies, and what the plan varies
        one, other = ({key: config[key] for key in shared} for config in (now, measured))
        if found := differences(one | {"data": data_name(task)}, other | {"data": content["data"]}):
            raise UserError(
                f"{self.path(task)} was measured with another config ({found[0]}); delete it to measure it again"
            )

    # ---------------------------------------------------------------------------------------------------- work

    def lock(self, start: Start, seed: int) -> AbstractContextManager[bool]:
        return lock(self.places.work / "locks" / f"{self.preset.name}-{start.name}-{seed}")

    def survives(self, task: Task) -> bool:
        """Measures; a training that breaks down (a loss that is not finite) is written down, and the others go on."""
        failure = self.results / task.start.name / f"seed{task.seed}-failure.json"
        try:
            self.measure(task)
        except Interrupted:
            raise
        except RunError as error:
            if isinstance(error.__cause__, OSError):  # a full disk says nothing about the training
                raise
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
        """Takes a figure; where the start was trained again to other weights, at once those too that are stale by it."""
        spec = self.spec(task.start, task.seed)
        for each in [task, *self.stale([task])]:
            if not self.done(each):
                self.measure_figure(each, spec)

    def measure_figure(self, task: Task, spec: str) -> None:
        begun = time.monotonic()
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
            "data": data_name(task),
            **self.without_places(found),
            "seconds": round(time.monotonic() - begun, 2),
            "weights": self.weights(task.start, task.seed),
            "machine": self.machine,
        }
        self.results.joinpath(task.start.name).mkdir(parents=True, exist_ok=True)
        write_json(self.path(task), content)
        shown = " ".join(f"{key} {value:.4f}" for key, value in found["metrics"].items() if "/" not in key)
        print(f"{time.strftime('%H:%M')} {task.start.name} seed {task.seed} {task.evaluation}: {shown}", flush=True)

    def spec(self, start: Start, seed: int) -> str:
        """What `--encoder` would say; trains what is not trained yet."""
        if start.kind == "pretrain":
            return self.pretrain(start, seed)
        if start.kind == "supervised":
            return self.supervise(start, seed)
        return measure.random_spec(start.config.encoder_at_size)

    def supervise(self, start: Start, seed: int) -> str:
        config = measure.supervised(self.preset, labels_of(self.data(start.data)))
        found = measure.supervise(
            start.config.encoder_at_size, config, seed=seed, runtime=self.runtime, out=self.folder(start, seed)
        )
        encoder = Path(found["path"]).with_suffix("") / "encoder"
        noted = to_dict(replace(config, data=start.data.name))
        content = {"config": noted, "metrics": found["metrics"], "seconds": found["seconds"]}
        self.note(start, seed, str(encoder), content)
        return str(encoder)

    def pretrain(self, start: Start, seed: int) -> str:
        folder = self.folder(start, seed)
        ratio = self.time_ratio(start, seed)
        data = self.data(start.data)
        images = f"fashion-mnist:{data}" if start.data.kind == "fashion-mnist" else str(data / "train" / "images")
        epochs = max(1, round(start.config.epochs * ratio))
        config = replace(start.config, data=images, out=str(folder), epochs=epochs, seed=seed)
        summary = (Run(folder) if (folder / "summary.json").is_file() else pretrain(config)).summary
        kept = ("steps", "epochs", "images", "seconds", "images_per_s", "final", "costs", "monitor_seconds")
        plain = to_dict(replace(config, data=start.data.name, out=""))
        taken = {} if start.as_long_as is None else {"time_ratio": ratio}
        self.note(start, seed, str(folder), {"config": plain, **taken, **{key: summary[key] for key in kept}})
        return str(folder)

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

    def note(self, start: Start, seed: int, encoder: str, content: dict[str, Any]) -> None:
        """Writes down what the training of this encoder was, unless that is noted. Its figures are stale where the weights
        are others than before, as the same seed gives them on another processor."""
        path, weights = self.note_path(start, seed), measure.fingerprint(encoder)
        if path.is_file():
            if read_json(path).get("weights") == weights:
                return
            print(f"{start.name} seed {seed} has other weights than before; its figures are measured again", flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
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


def data_name(task: Task) -> str:
    """The data set that an evaluation sees."""
    return (task.start.single if task.evaluation in measure.WHOLE_IMAGE else task.start.dense).name


def source_digest() -> str:
    """Which code measured: a hash over the package's files and those beside this one that make data and figures."""
    package, here = Path(repre.__file__).parent, Path(__file__).parent
    paths = [*sorted(package.rglob("*.py")), *(here / f"{name}.py" for name in MEASURING)]
    parts = [f"{path.parent.name}/{path.name}".encode() + path.read_bytes() for path in paths]
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
