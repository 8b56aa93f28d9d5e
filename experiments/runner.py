"""Works through a list of tasks: trains what is not trained yet, measures what is not measured yet.

All records of a method are in one file (`results_store`). That of a training has a hash of its weights; that of a task has
the hash of the weights that it was measured with. A result with another hash is stale: it does not count and is measured
again together with the next task of that method and seed.
"""

import fcntl
import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from benchmarks.machine import machine

from experiments import measure
from experiments.all_presets import plan_of
from experiments.datasets import ensure_dataset, images_spec, labels_spec
from experiments.methods import COST_TIERS, Method, Task
from experiments.presets import Data, Preset
from experiments.recorded_config import recorded_run
from experiments.results_store import FAILURE, TRAINING, ResultsStore, is_current
from experiments.source_hash import source_hash
from experiments.time_ratio import training_time_ratio
from repre.api import Run, pretrain
from repre.config import identity
from repre.config_values import differences, to_dict
from repre.errors import RunError, UserError
from repre.evaluation.options import RuntimeOptions
from repre.utils.folder_lock import LONG_WAIT, writing
from repre.utils.io import write_json
from repre.utils.signals import Interrupted

SUMMARY_KEYS = ("steps", "epochs", "images", "seconds", "images_per_s", "final", "costs", "monitor_seconds")
"""What a training record takes from the run's summary."""


@dataclass(frozen=True)
class Folders:
    """Where files lie. No result depends on it."""

    packages: Path
    """The .deb files."""
    data: Path
    """The built data sets."""
    work: Path
    """Runs, caches and locks."""
    results: Path
    """The results."""
    real: Path | None = None
    """The user's copies of camvid and cifar10."""


class Runner:
    """Works through tasks of one preset. Several runners, also in other processes, may share the folders."""

    def __init__(self, preset: Preset, folders: Folders) -> None:
        self.preset, self.folders = preset, folders
        self.store = ResultsStore(folders.results / preset.name)
        self.runtime = RuntimeOptions(
            device=preset.device,
            precision=preset.precision,
            workers=preset.workers,
            cache=folders.work / "cache",
            cache_gib=4,
        )
        self.report: Callable[[str], object] = partial(print, flush=True)
        """Prints a line about a task that has ended."""
        self.methods = {row.method.name: row.method for row in plan_of(preset).rows()}

    @cached_property
    def machine(self) -> dict[str, Any]:
        """The machine and a hash of the code that measure."""
        return machine(self.preset.device) | {"source": source_hash()}

    def run(
        self, tasks: list[Task], *, hours: float | None, share: Callable[[list[Task]], object] | None = None
    ) -> int:
        """Works through the tasks and returns how many are left.

        Tasks of a method and seed that another process works on are left to it. Tasks of a failed training are skipped.

        Args:
            hours: start no task after this time; None for no limit.
            share: measures the tasks that are left, in several processes; None to measure them here.

        Raises:
            UserError: existing results were measured with another config.
        """
        for method, seed in {(task.method.name, task.seed): (task.method, task.seed) for task in tasks}.values():
            self.check_training(method, seed)
        for task in tasks:
            self.check_result(task)
        requested = {(task.method.name, task.seed, task.evaluation) for task in tasks}
        tasks = tasks + [
            task for task in self.stale(tasks) if (task.method.name, task.seed, task.evaluation) not in requested
        ]
        started, left = time.monotonic(), [task for task in tasks if not self.is_done(task)]
        print(f"{len(tasks) - len(left)} of {len(tasks)} results already exist", flush=True)
        if share is not None:
            share(left)
            return sum(not self.is_done(task) for task in left)
        failed: set[tuple[str, int]] = set()
        while left:
            worked = False
            for task in left:
                if hours is not None and time.monotonic() - started > 3600 * hours:
                    print(f"out of time; {len(left)} results are missing. Run the same command to resume", flush=True)
                    return len(left)
                key = (task.method.name, task.seed)
                with self.lock(task.method, task.seed) as acquired:
                    if acquired and not self.is_done(task) and key not in failed:
                        worked = True
                        if not self.measure_or_record_failure(task):
                            failed.add(key)
            left = [task for task in tasks if not self.is_done(task)]
            if all((task.method.name, task.seed) in failed for task in left):
                return len(left)
            if not worked:
                time.sleep(5)
        return 0

    # ------------------------------------------------------------------------------------------- existing results

    def is_done(self, task: Task) -> bool:
        """Whether there is a result that is not stale."""
        return is_current(self.store.read(task.method.name), task.seed, task.evaluation)

    def stale(self, tasks: list[Task]) -> list[Task]:
        """Returns the stale results of the same methods and seeds as tasks, cheap evaluations first."""
        found = []
        for task in {(task.method.name, task.seed): task for task in tasks}.values():
            records = self.store.read(task.method.name)
            names = [name for name in COST_TIERS if (task.seed, name) in records]
            found += [replace(task, evaluation=name) for name in names if not is_current(records, task.seed, name)]
        return found

    def recorded_weights(self, method: Method, seed: int) -> str | None:
        """Returns the weights hash of the training record; None without a record."""
        return (self.store.get(method.name, seed, TRAINING) or {}).get("weights")

    def check_training(self, method: Method, seed: int) -> None:
        """Refuses a training record with another config than the plan's.

        Raises:
            UserError: the configs differ.
        """
        record = self.store.get(method.name, seed, TRAINING)
        if method.kind in ("random", "scratch") or record is None:
            return
        if method.kind == "supervised":
            planned = to_dict(replace(measure.supervised_config(self.preset, method.data.name), seed=seed))
            recorded = record["config"] | {"seed": seed} if "config" in record else planned  # older records have none
        else:
            run = recorded_run(record["config"] | {"seed": seed})
            epochs = run.epochs if method.same_time_as else method.config.epochs
            config = replace(method.config, data=method.data.name, seed=seed, epochs=epochs)
            planned, recorded = (identity(replace(each, views=each.rendered_views)) for each in (config, run))
        if lines := differences(planned, recorded):
            raise UserError(
                f"{method.name} seed {seed} was measured with another config ({lines[0]}); to measure it again, move "
                f"{self.store.path(method.name)} and {self.work_folder(method, seed)} away"
            )

    def check_result(self, task: Task) -> None:
        """Refuses a result with another config, or on other data, than the plan's.

        Raises:
            UserError: they differ.
        """
        content = self.store.get(task.method.name, task.seed, task.evaluation)
        if content is None:
            return
        planned = measure.evaluation_configs(
            self.preset, dense=Path(), single=Path(), from_scratch=task.method.kind == "scratch"
        ).get(task.evaluation)
        recorded_config, planned_config = content["config"], to_dict(planned[1]) if planned else {}
        shared = (recorded_config.keys() & planned_config.keys()) - {"data", "test"}  # paths
        expected, actual = ({key: config[key] for key in shared} for config in (planned_config, recorded_config))
        if lines := differences(expected | {"data": data_name(task)}, actual | {"data": content["data"]}):
            raise UserError(
                f"{task.evaluation} of {task.method.name} seed {task.seed} was measured with another config ({lines[0]}); "
                f"to measure the method again, move {self.store.path(task.method.name)} away"
            )

    # ------------------------------------------------------------------------------------------------- measuring

    def lock(self, method: Method, seed: int) -> AbstractContextManager[bool]:
        """Returns the lock on a method and seed; see `file_lock`."""
        return file_lock(self.folders.work / "locks" / f"{self.preset.name}-{method.name}-{seed}")

    def measure_or_record_failure(self, task: Task) -> bool:
        """Measures a task. If its training fails (a loss that is not finite), writes that down and returns False."""
        try:
            self.measure(task)
        except Interrupted:
            raise
        except RunError as error:
            if isinstance(error.__cause__, OSError):  # a full disk is no failure of the training
                raise
            reason = self.strip_paths(str(error))
            self.store.put(task.method.name, task.seed, FAILURE, {"failure": reason, "machine": self.machine})
            self.report(f"{task.method.name} seed {task.seed} {task.evaluation} failed: {reason}")
            return False
        self.store.remove(task.method.name, task.seed, FAILURE)
        return True

    def measure(self, task: Task) -> None:
        """Measures a task, and all results of the same training that are stale now."""
        spec = self.encoder_spec(task.method, task.seed)
        for each in [task, *self.stale([task])]:
            if not self.is_done(each):
                self.measure_task(each, spec)

    def measure_task(self, task: Task, spec: str) -> None:
        """Measures a task with the encoder `spec` and writes the result."""
        started = time.monotonic()
        dense, single = (self.dataset(data) for data in (task.method.dense, task.method.single))
        measured = measure.measure(
            task.evaluation, spec, self.preset, dense=dense, single=single, seed=task.seed, runtime=self.runtime,
            out=self.work_folder(task.method, task.seed) / "evaluations", from_scratch=task.method.kind == "scratch",
        )  # fmt: skip
        content = {
            "data": data_name(task),
            **self.strip_paths(measured),
            "seconds": round(time.monotonic() - started, 2),
            "weights": self.recorded_weights(task.method, task.seed),
            "machine": self.machine,
        }
        self.store.put(task.method.name, task.seed, task.evaluation, content)
        metrics = " ".join(f"{key} {value:.4f}" for key, value in measured["metrics"].items() if "/" not in key)
        self.report(f"{time.strftime('%H:%M')} {task.method.name} seed {task.seed} {task.evaluation}: {metrics}")

    def encoder_spec(self, method: Method, seed: int) -> str:
        """Returns the encoder as `--encoder` accepts it; trains it first if necessary."""
        if method.kind == "pretrain":
            return self.pretrain(method, seed)
        if method.kind == "supervised":
            return self.train_supervised(method, seed)
        return measure.random_init_spec(method.config.encoder_at_size)

    def train_supervised(self, method: Method, seed: int) -> str:
        """Trains the supervised baseline, or finds it trained, and records it; returns the folder of its encoder."""
        config = measure.supervised_config(self.preset, labels_spec(self.dataset(method.data)))
        result = measure.train_supervised(
            method.config.encoder_at_size, config, seed=seed, runtime=self.runtime, out=self.work_folder(method, seed)
        )
        encoder = Path(result["path"]).with_suffix("") / "encoder"
        record = {
            "config": to_dict(replace(config, data=method.data.name, seed=seed)),
            "metrics": result["metrics"],
            "seconds": result["seconds"],
        }
        self.record_training(method, seed, str(encoder), record)
        return str(encoder)

    def pretrain(self, method: Method, seed: int) -> str:
        """Pre-trains, or finds the finished run, and records it; returns the folder of the run."""
        folder = self.work_folder(method, seed)
        ratio = self.time_ratio(method, seed)
        data = self.dataset(method.data)
        images = images_spec(data)
        epochs = max(1, round(method.config.epochs * ratio))
        config = replace(method.config, data=images, out=str(folder), epochs=epochs, seed=seed)
        run = Run(folder) if (folder / "summary.json").is_file() else pretrain(config)
        record: dict[str, Any] = {"config": to_dict(replace(config, data=method.data.name, out=""))}
        if method.same_time_as is not None:
            record["time_ratio"] = ratio
        self.record_training(method, seed, str(folder), record | {key: run.summary[key] for key in SUMMARY_KEYS})
        return str(folder)

    def time_ratio(self, method: Method, seed: int) -> float:
        """Returns the training time of `method.same_time_as` over that of `method`, measured once; 1 without it."""
        if method.same_time_as is None:
            return 1.0
        work = self.folders.work / "time_ratio" / f"{self.preset.name}-{method.name}-{seed}"
        cached = work.with_suffix(".json")
        if record := self.store.get(method.name, seed, TRAINING):
            return float(record["time_ratio"])
        if cached.is_file():
            return float(json.loads(cached.read_text(encoding="utf-8"))["time_ratio"])
        images = self.dataset(method.data) / "train" / "images"
        ratio = training_time_ratio(self.methods[method.same_time_as].config, method.config, images=images, work=work)
        write_json(cached, {"time_ratio": ratio})
        return ratio

    def dataset(self, data: Data) -> Path:
        """Returns the folder of a data set; builds it if it is missing."""
        with writing(self.folders.data / data.name, patience=LONG_WAIT):  # of several processes, one builds it
            return ensure_dataset(
                data, folder=self.folders.data, packages=self.folders.packages, real=self.folders.real
            )

    def work_folder(self, method: Method, seed: int) -> Path:
        """Returns the folder for the run and the evaluations of a method and seed."""
        return self.folders.work / self.preset.name / f"{method.name}-seed{seed}"

    def record_training(self, method: Method, seed: int, spec: str, content: dict[str, Any]) -> None:
        """Writes a training record, unless there is one with the same weights.

        The same seed can give other weights on another processor; the existing results are stale then.
        """
        weights, record = measure.weights_hash(spec), self.store.get(method.name, seed, TRAINING)
        if record is not None:
            if record.get("weights") == weights:
                return
            print(f"{method.name} seed {seed} has other weights than before; measuring its results again", flush=True)
        self.store.put(method.name, seed, TRAINING, {**content, "weights": weights, "machine": self.machine})

    def strip_paths(self, value: Any) -> Any:
        """Removes settings and folders that differ between machines from plain values."""
        if isinstance(value, dict):
            return {key: self.strip_paths(item) for key, item in value.items() if key not in ("path", "runtime")}
        if isinstance(value, list | tuple):
            return [self.strip_paths(item) for item in value]
        if isinstance(value, str):
            folders = {"DATA": self.folders.data, "WORK": self.folders.work, "RESULTS": self.folders.results}
            for name, folder in folders.items():
                value = value.replace(str(folder), name)
        return value


def data_name(task: Task) -> str:
    """Returns the name of the data set that a task evaluates on."""
    return (task.method.single if task.evaluation in measure.IMAGE_LEVEL else task.method.dense).name


@contextmanager
def file_lock(path: Path) -> Iterator[bool]:
    """Yields whether this process acquired the lock. The system releases the lock of a process that ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
