"""The runner: it measures every task once, refuses results of other configs, and measures stale results again."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from experiments.analysis import load_results
from experiments.plan import Plan, Task, tasks
from experiments.presets import CPU, TOY
from experiments.recorded_config import recorded_run
from experiments.run import RESULTS
from experiments.runner import Folders, Runner
from experiments.tables import evidence_page

from repre.config import RunConfig
from repre.errors import RunError, UserError

Measured = tuple[Runner, list[Task]]
slow = pytest.mark.slow  # for tests that need the fixture `measured`


def new_runner(folder: Path) -> Runner:
    return Runner(TOY, Folders(*(folder / name for name in ("packages", "data", "work", "results"))))


def copy_results(runner: Runner, folder: Path, *, work: Path | None = None) -> Runner:
    """A runner with a copy of the results; with other work it has none of the trained encoders."""
    shutil.copytree(runner.folders.results, folder / "results")
    copied = Runner(TOY, replace(runner.folders, results=folder / "results", work=work or runner.folders.work))
    copied.machine = runner.machine  # also if somebody edits the code while the tests run
    return copied


def test_the_stored_results_are_those_of_the_plan(tmp_path: Path) -> None:
    runner = Runner(CPU, replace(new_runner(tmp_path).folders, results=RESULTS))
    planned = tasks(Plan(CPU).rows())
    assert sum(runner.result_path(task).is_file() for task in planned) > 200
    for task in planned:
        runner.check_result(task)
    for method, seed in {(task.method.name, task.seed): (task.method, task.seed) for task in planned}.values():
        runner.check_training(method, seed)


def test_a_record_with_the_old_settings_of_masks_is_understood() -> None:
    method = next(row.method for row in Plan(CPU).rows() if row.method.name.endswith("simmim"))
    record = json.loads((RESULTS / "cpu" / method.name / "seed1-train.json").read_text())["config"]
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
def test_results_of_another_config_are_refused(measured: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    runner, tasks = measured
    task = tasks[0]
    other = replace(task, method=replace(task.method, config=replace(task.method.config, batch_size=16)))
    with pytest.raises(UserError, match=r"seed 0 was measured with another config \(batch_size: 16 here, 32 there\)"):
        runner.run([other], hours=None)
    monkeypatch.setattr(runner, "preset", replace(TOY, miou=replace(TOY.miou, epochs=7)))
    message = r"foreground\.json was measured with another config \(fit.epochs: 7 here, 1 there\)"
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
    assert not list(tmp_path.rglob("*failure*"))


def test_a_failed_training_is_recorded_and_the_others_continue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = new_runner(tmp_path)
    method = Plan(TOY).pretrained("moco-v3", "vit", "plain")
    seeds = []

    def measure(self: Runner, task: Task) -> None:
        seeds.append(task.seed)
        if task.seed == 0:
            raise RunError(f"the loss is not finite; see {runner.folders.work}")
        self.result_path(task).parent.mkdir(parents=True, exist_ok=True)
        self.result_path(task).write_text("{}")

    monkeypatch.setattr(Runner, "measure", measure)
    tasks = [Task("1", method, seed, name) for seed in (0, 1) for name in ("knn", "linear")]
    assert runner.run(tasks, hours=None) == 2
    assert seeds == [0, 1, 1]  # the second task of a failed training is skipped
    text = evidence_page(runner.folders.results, tmp_path, presets=[TOY], plots=False)
    assert "Failed: fashion-moco-v3-vit-plain, seed 0: the loss is not finite; see WORK." in text


@slow
def test_results_are_complete_and_hold_no_path(measured: Measured) -> None:
    runner, tasks = measured
    folder = str(runner.folders.work.parent)
    for task in tasks:
        text = runner.result_path(task).read_text()
        assert folder not in text
        content = json.loads(text)
        assert {"metrics", "config", "machine", "seconds", "seed", "data"} <= set(content)
        assert {"processor", "cores", "torch", "source"} <= set(content["machine"])
    record = json.loads(runner.training_path(tasks[1].method, 0).read_text())
    assert record["config"]["reconstruction"]["weight"] == RunConfig().reconstruction.weight
    assert record["config"]["data"] == tasks[1].method.data.name
    assert folder not in json.dumps(record)


@slow
def test_the_plain_framework_can_train_as_long_as_the_branch(measured: Measured) -> None:
    runner, tasks = measured
    longer = next(task.method for task in tasks if task.method.same_time_as)
    record = json.loads(runner.training_path(longer, 0).read_text())
    assert record["time_ratio"] > 0
    assert record["epochs"] == max(1, round(TOY.epochs * record["time_ratio"]))


@slow
def test_the_time_ratio_is_measured_once(measured: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner, tasks = measured
    longer = next(task.method for task in tasks if task.method.same_time_as)
    monkeypatch.setattr("experiments.runner.training_time_ratio", lambda *_, **__: pytest.fail("measured again"))
    recorded = json.loads(runner.training_path(longer, 0).read_text())["time_ratio"]
    assert copy_results(runner, tmp_path, work=tmp_path / "work").time_ratio(longer, 0) == recorded
    stopped_before_the_record = Runner(TOY, replace(runner.folders, results=tmp_path / "empty"))
    assert stopped_before_the_record.time_ratio(longer, 0) == recorded


@slow
def test_a_finished_training_without_a_record_gets_one(measured: Measured, tmp_path: Path) -> None:
    runner, method = copy_results(measured[0], tmp_path), measured[1][0].method
    path = runner.training_path(method, 0)
    before = path.read_text()
    path.unlink()
    runner.pretrain(method, 0)
    assert path.read_text() == before


@slow
def test_results_stay_if_their_encoder_is_trained_again_to_the_same_weights(measured: Measured, tmp_path: Path) -> None:
    runner = copy_results(measured[0], tmp_path, work=tmp_path / "work")
    tasks = [task for task in measured[1] if task.method.name.endswith("vit-plain")]
    missing, *others = (runner.result_path(task) for task in tasks)
    for path in others:
        path.write_text(path.read_text() + " ")  # a mark that a new result would not have
    missing.unlink()
    assert runner.run(tasks, hours=None) == 0
    assert all(path.read_text().endswith(" ") for path in others)
    assert json.loads(missing.read_text())["weights"] == json.loads(others[0].read_text())["weights"]


@slow
def test_results_of_other_weights_do_not_count_and_are_all_measured_again(
    measured: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = copy_results(measured[0], tmp_path, work=tmp_path / "work")
    tasks = [task for task in measured[1] if task.method.name.endswith("vit-plain")]
    for task in [task for task in tasks if "upernet" in task.evaluation or "detect" in task.evaluation]:
        runner.result_path(task).unlink()  # they take long
        tasks.remove(task)
    method, requested = tasks[0].method, tasks[0]
    for path in runner.training_path(method, 0).parent.iterdir():  # as on another processor
        path.write_text(json.dumps(json.loads(path.read_text()) | {"weights": "another"}))
    runner.result_path(requested).unlink()
    measure_task, interrupts = Runner.measure_task, iter((False, True))

    def interrupted(self: Runner, task: Task, spec: str) -> None:
        if next(interrupts):
            raise KeyboardInterrupt
        measure_task(self, task, spec)

    def counted() -> set[str]:
        return {evaluation for name, _, evaluation in load_results(runner.results) if name == method.name}

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
        path = runner.training_path(task.method, 0)
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | {"weights": "another"}))  # as if copied from another machine
        assert not runner.is_done(task)
        runner.encoder_spec(task.method, 0)
        assert json.loads(path.read_text()) == content
        assert runner.is_done(task)
