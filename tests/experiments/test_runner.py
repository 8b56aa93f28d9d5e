"""The runner: it measures every task once, refuses results of other configs, and measures stale results again."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from experiments.analysis import load_results
from experiments.methods import Task, tasks
from experiments.plan import Plan
from experiments.presets import CPU, TOY
from experiments.recorded_config import recorded_run
from experiments.results_store import TRAINING, ResultsStore
from experiments.run import RESULTS
from experiments.runner import Folders, Runner
from experiments.tables import evidence_page

from repre.config import RunConfig
from repre.errors import RunError, UserError

Measured = tuple[Runner, list[Task]]
slow = pytest.mark.slow  # for tests that need the fixture `measured`


def new_runner(folder: Path) -> Runner:
    return Runner(TOY, Folders(*(folder / name for name in ("packages", "data", "work", "results"))))


def recorded(store: ResultsStore, method: str, seed: int, name: str) -> dict[str, Any]:
    """A record that is there."""
    record = store.get(method, seed, name)
    assert record is not None
    return record


def change(store: ResultsStore, method: str, seed: int, name: str, **values: Any) -> None:
    """Changes a record that is there."""
    store.put(method, seed, name, recorded(store, method, seed, name) | values)


def copy_results(runner: Runner, folder: Path, *, work: Path | None = None) -> Runner:
    """A runner with a copy of the results; with other work it has none of the trained encoders."""
    shutil.copytree(runner.folders.results, folder / "results")
    copied = Runner(TOY, replace(runner.folders, results=folder / "results", work=work or runner.folders.work))
    copied.machine = runner.machine  # also if somebody edits the code while the tests run
    return copied


def test_the_stored_results_are_those_of_the_plan(tmp_path: Path) -> None:
    runner = Runner(CPU, replace(new_runner(tmp_path).folders, results=RESULTS))
    planned = tasks(Plan(CPU).rows())
    assert sum(map(runner.is_done, planned)) > 200
    for task in planned:
        runner.check_result(task)
    for method, seed in {(task.method.name, task.seed): (task.method, task.seed) for task in planned}.values():
        runner.check_training(method, seed)


def test_a_record_with_the_old_settings_of_masks_is_understood() -> None:
    method = next(row.method for row in Plan(CPU).rows() if row.method.name.endswith("simmim"))
    record = recorded(ResultsStore(RESULTS / "cpu"), method.name, 1, TRAINING)["config"] | {"seed": 1}
    assert record["views"]["mask_ratio"] == 0.6
    run = recorded_run(record)
    assert (run.views.mask, run.reconstruction.masked_input) == (method.config.views.mask, "pixels")
    assert run.views.mask.ratio == (0.6, 0.6)
    record["views"]["mask_ratio"] = 0.0
    assert recorded_run(record).rendered_views.mask.kind == "none"


@slow
def test_a_task_is_measured_once(measured: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    runner, tasks = measured
    monkeypatch.setattr(Runner, "measure", lambda *_: pytest.fail("measured again"))
    assert runner.run(tasks, hours=None) == 0
    assert runner.run([*tasks, replace(tasks[0], seed=1)], hours=0.0) == 1


@slow
def test_gradients_are_told_by_depth_where_there_is_a_branch(measured: Measured) -> None:
    runner, tasks = measured
    by_name = {task.evaluation: task for task in tasks if task.evaluation.startswith("gradients")}
    branch, plain = (
        runner.store.read(by_name[name].method.name)[0, name]["metrics"] for name in ("gradients", "gradients-by-depth")
    )
    assert plain == {"gradient_ratio_start": 0.0, "gradient_ratio_end": 0.0}
    depths = [branch[f"gradient_ratio_{depth}_block"] for depth in ("first", "last")]
    assert 0 < max(depths) <= branch["gradient_ratio_end"]
    assert branch["gradient_ratio_start"] > 0
    assert -1 <= branch["gradient_cosine"] <= 1


@slow
def test_results_of_another_config_are_refused(measured: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    runner, tasks = measured
    task = tasks[0]
    other = replace(task, method=replace(task.method, config=replace(task.method.config, batch_size=16)))
    with pytest.raises(UserError, match=r"seed 0 was measured with another config \(batch_size: 16 here, 32 there\)"):
        runner.run([other], hours=None)
    monkeypatch.setattr(runner, "preset", replace(TOY, miou=replace(TOY.miou, epochs=7)))
    message = r"foreground of fashion-\S+ seed 0 was measured with another config \(fit.epochs: 7 here, 1 there\)"
    with pytest.raises(UserError, match=message):
        runner.run([task], hours=None)


@slow
def test_results_of_other_data_or_another_supervised_training_are_refused(measured: Measured) -> None:
    runner, tasks = measured
    for change, message in (
        ({"images": 48}, r"moco-v3-vit-plain seed 0 was measured with another config \(data: scenes32-48"),
        ({"epochs": 2}, r"moco-v3-vit-plain seed 0 was measured with another config \(epochs: 2 here, 1 there\)"),
        ({"test": 12}, r"was measured with another config \(data: scenes32-"),
        (
            {"supervised": replace(TOY.supervised, epochs=3)},
            r"supervised-vit seed 0 .* \(fit.epochs: 3 here, 1 there\)",
        ),
    ):
        other = Runner(replace(TOY, **change), runner.folders)
        again = [
            replace(task, method=other.methods[task.method.name]) for task in tasks if not task.method.same_time_as
        ]
        with pytest.raises(UserError, match=message):
            other.run(again, hours=None)


def test_a_full_disk_does_not_count_as_a_failed_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = new_runner(tmp_path)

    def measure(self: Runner, task: Task) -> None:
        raise RunError("could not write last.pt") from OSError("no space left on device")

    monkeypatch.setattr(Runner, "measure", measure)
    with pytest.raises(RunError, match="could not write"):
        runner.run([Task("1", Plan(TOY).pretrained("moco-v3", "vit", "plain"), 0, "knn")], hours=None)
    assert not list(tmp_path.rglob("*.json"))


def test_a_failed_training_is_recorded_and_the_others_continue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = new_runner(tmp_path)
    method = Plan(TOY).pretrained("moco-v3", "vit", "plain")
    seeds = []

    def measure(self: Runner, task: Task) -> None:
        seeds.append(task.seed)
        if task.seed == 0:
            raise RunError(f"the loss is not finite; see {runner.folders.work}")
        self.store.put(task.method.name, task.seed, task.evaluation, {"machine": {"source": "abc"}, "metrics": {}})

    monkeypatch.setattr(Runner, "measure", measure)
    tasks = [Task("1", method, seed, name) for seed in (0, 1) for name in ("knn", "linear")]
    assert runner.run(tasks, hours=None) == 2
    assert seeds == [0, 1, 1]  # the second task of a failed training is skipped
    text, _ = evidence_page(runner.folders.results, tmp_path, presets=[TOY], plots=False)
    assert "Failed: fashion-moco-v3-vit-plain, seed 0: the loss is not finite; see WORK." in text


@slow
def test_results_are_complete_and_hold_no_path(measured: Measured) -> None:
    runner, tasks = measured
    folder = str(runner.folders.work.parent)
    for task in tasks:
        assert folder not in runner.store.path(task.method.name).read_text()
        content = recorded(runner.store, task.method.name, 0, task.evaluation)
        details = {"details"} if task.evaluation == "objects" else set()
        assert {"metrics", "config", "machine", "seconds", "weights", "data"} | details == set(content)
        assert {"processor", "cores", "torch", "source"} <= set(content["machine"])
    record = recorded(runner.store, tasks[1].method.name, 0, TRAINING)
    assert record["config"]["reconstruction"]["weight"] == RunConfig().reconstruction.weight
    assert record["config"]["data"] == tasks[1].method.data.name


@slow
def test_the_plain_framework_can_train_as_long_as_the_branch(measured: Measured) -> None:
    runner, tasks = measured
    longer = next(task.method for task in tasks if task.method.same_time_as)
    record = recorded(runner.store, longer.name, 0, TRAINING)
    assert record["time_ratio"] > 0
    assert record["epochs"] == max(1, round(TOY.epochs * record["time_ratio"]))


@slow
def test_the_time_ratio_is_measured_once(measured: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner, tasks = measured
    longer = next(task.method for task in tasks if task.method.same_time_as)
    monkeypatch.setattr("experiments.runner.training_time_ratio", lambda *_, **__: pytest.fail("measured again"))
    ratio = recorded(runner.store, longer.name, 0, TRAINING)["time_ratio"]
    assert copy_results(runner, tmp_path, work=tmp_path / "work").time_ratio(longer, 0) == ratio
    stopped_before_the_record = Runner(TOY, replace(runner.folders, results=tmp_path / "empty"))
    assert stopped_before_the_record.time_ratio(longer, 0) == ratio


@slow
def test_a_finished_training_without_a_record_gets_one(measured: Measured, tmp_path: Path) -> None:
    runner, method = copy_results(measured[0], tmp_path), measured[1][0].method
    path = runner.store.path(method.name)
    before = path.read_text()
    runner.store.remove(method.name, 0, TRAINING)
    runner.pretrain(method, 0)
    assert path.read_text() == before


@slow
def test_results_stay_if_their_encoder_is_trained_again_to_the_same_weights(measured: Measured, tmp_path: Path) -> None:
    runner = copy_results(measured[0], tmp_path, work=tmp_path / "work")
    tasks = [task for task in measured[1] if task.method.name.endswith("vit-plain")]
    missing, *others = ((runner.store, task.method.name, 0, task.evaluation) for task in tasks)
    for each in others:  # a mark that a new result would not have
        change(*each, seconds=-1)
    ResultsStore.remove(*missing)
    assert runner.run(tasks, hours=None) == 0
    assert all(recorded(*each)["seconds"] == -1 for each in others)
    assert recorded(*missing)["weights"] == recorded(*others[0])["weights"]


@slow
def test_results_of_other_weights_do_not_count_and_are_all_measured_again(
    measured: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = copy_results(measured[0], tmp_path, work=tmp_path / "work")
    tasks = [task for task in measured[1] if task.method.name.endswith("vit-plain")]
    for task in [task for task in tasks if "upernet" in task.evaluation or "detect" in task.evaluation]:
        runner.store.remove(task.method.name, 0, task.evaluation)  # they take long
        tasks.remove(task)
    method, requested = tasks[0].method, tasks[0]
    for _, name in runner.store.read(method.name):  # as on another processor
        change(runner.store, method.name, 0, name, weights="another")
    runner.store.remove(method.name, 0, requested.evaluation)
    measure_task, interrupts = Runner.measure_task, iter((False, True))

    def interrupted(self: Runner, task: Task, spec: str) -> None:
        if next(interrupts):
            raise KeyboardInterrupt
        measure_task(self, task, spec)

    def counted() -> set[str]:
        return {evaluation for name, _, evaluation in load_results(runner.store.folder) if name == method.name}

    assert requested.evaluation not in counted()
    with monkeypatch.context() as patched:
        patched.setattr(Runner, "measure_task", interrupted)
        with pytest.raises(KeyboardInterrupt):
            runner.run([requested], hours=None)
    assert counted() == {requested.evaluation}
    assert runner.run([requested], hours=None) == 0  # also measures the stale ones, which it was not asked for
    assert counted() == {task.evaluation for task in tasks}


@slow
def test_a_record_of_other_weights_is_replaced(measured: Measured, tmp_path: Path) -> None:
    runner = copy_results(measured[0], tmp_path)
    for name in ("vit-plain", "supervised-vit"):
        task = next(task for task in measured[1] if task.method.name.endswith(name))
        before = recorded(runner.store, task.method.name, 0, TRAINING)
        change(runner.store, task.method.name, 0, TRAINING, weights="another")  # as if copied from another machine
        assert not runner.is_done(task)
        runner.encoder_spec(task.method, 0)
        assert recorded(runner.store, task.method.name, 0, TRAINING) == before
        assert runner.is_done(task)
