"""The evidence's plan, runner and tables at toy size."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.machine import words
from experiments.baselines import register
from experiments.claims import summary
from experiments.analysis import FIGURES, bootstrap, lines, load, pooled_objects, without_fold
from experiments.plan import CONFIRMATORY, FRESH, WAVES, Plan, Task, tasks
from experiments.presets import PRESETS, TOY
from experiments.run import chosen, main
from experiments.runner import Places, Runner
from experiments.tables import main as write_page
from experiments.tables import markdown, means, over_folds, page, verdict

from experiments import measure, turns
from repre.config import RunConfig
from repre.errors import RunError, UserError
from repre.frameworks import FRAMEWORKS
from repre.models.encoder import Encoder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def pixels_alone_is_a_framework() -> Iterator[None]:
    """For these tests alone."""
    register()
    yield
    del FRAMEWORKS["pixels"]


@pytest.mark.parametrize("name", PRESETS)
def test_one_name_is_one_start_and_pairs_differ_in_the_branch_alone(name: str) -> None:
    plan = Plan(PRESETS[name])
    rows = plan.rows()
    starts: dict[str, Any] = {}
    for row in rows:
        assert starts.setdefault(row.start.name, row.start) == row.start, row.start.name
        same = {other.label for other in rows if other.table == row.table}
        assert row.against is None or row.against in same - {row.label}
    assert len({json.dumps([s.name, repr(s)]) for s in starts.values()}) == len(starts)
    for framework, encoder in CONFIRMATORY:
        plain, branch = (plan.start(framework, encoder, variant).config for variant in ("plain", "branch"))
        assert (plain.reconstruction.weight, branch.reconstruction.weight) == (0.0, RunConfig().reconstruction.weight)
        assert replace(plain, reconstruction=branch.reconstruction) == branch


@pytest.mark.parametrize("name", PRESETS)
def test_every_evaluation_of_the_plan_can_be_run_and_told(name: str) -> None:
    preset = PRESETS[name]
    wanted = {evaluation for row in Plan(preset).rows() for evaluation in row.evaluations}
    known = measure.configs(preset, dense=Path(), single=Path()).keys() | {"objects", "gradients"}
    assert wanted <= known & WAVES.keys()
    assert wanted - {"objects"} <= FIGURES.keys()
    assert f"{preset.primary}-labels" in wanted
    assert ("foreground-detect" in wanted) == (preset.primary == "foreground")


def test_an_early_stop_leaves_complete_pairs() -> None:
    todo = [task for task in tasks(Plan(TOY).rows()) if task.table == "confirmatory"]
    order = [(WAVES[task.evaluation], task.seed) for task in todo]
    assert order == sorted(order)
    first = list(dict.fromkeys(task.start.name for task in todo if task.seed == FRESH))
    names = (
        "moco-v3-vit-plain",
        "moco-v3-vit-branch",
        "moby-swin-plain",
        "moby-swin-branch",
        "random-vit",
        "random-swin",
    )
    assert first == [f"fresh-fashion-{name}" for name in names]
    assert len(todo) == len({(task.start.name, task.seed, task.evaluation) for task in todo})


@pytest.mark.parametrize("name", PRESETS)
def test_what_confirms_was_not_explored(name: str) -> None:
    preset = PRESETS[name]
    rows = Plan(preset).rows()
    fresh, others = ([row for row in rows if (row.table == "confirmatory") == which] for which in (True, False))
    assert not {row.start.name for row in fresh} & {row.start.name for row in others}
    assert not {seed for row in fresh for seed in row.each_seed} & {seed for row in others for seed in row.each_seed}
    assert not {row.start.dense for row in fresh} & {row.start.dense for row in others}


def test_tables_can_be_chosen() -> None:
    assert all(chosen("2", only) for only in ([], ["exploratory"], ["1", "2"]))
    assert not chosen("2", ["confirmatory"])
    assert not chosen("confirmatory", ["exploratory"])


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Runner, list[Task]]:
    """A pair, a supervised start and one at random, in some evaluations."""
    folder = tmp_path_factory.mktemp("evidence")
    runner = Runner(TOY, Places(*(folder / name for name in ("packages", "data", "work", "results"))))
    plan = Plan(TOY)
    pair = [plan.start("moco-v3", "vit", variant) for variant in ("plain", "branch")]
    longer = plan.start("moco-v3", "vit", "plain-as-long", as_long_as=pair[1].name)
    simmim = next(row.start for row in plan.rows() if row.start.name.endswith("simmim"))
    others = [plan.other(how, "vit") for how in ("random", "supervised")]
    todo = [Task("1", start, 0, name) for name in ("foreground", "knn", "linear", "objects") for start in pair]
    todo += [Task("1", start, 0, "knn") for start in (longer, simmim, *others)]
    todo += [Task("4", pair[1], 0, "miou-labels"), Task("1", pair[0], 0, "upernet"), Task("2", pair[1], 0, "gradients")]
    todo += [Task("1", pair[0], 0, name) for name in ("foreground-upernet", "foreground-detect")]
    assert runner.go(todo, hours=None) == 0
    return runner, todo


def test_the_runner_measures_once(measured: tuple[Runner, list[Task]], monkeypatch: pytest.MonkeyPatch) -> None:
    runner, todo = measured
    monkeypatch.setattr(Runner, "measure", lambda *_: pytest.fail("measured again"))
    assert runner.go(todo, hours=None) == 0
    more = [*todo, replace_seed(todo[0], 1)]
    assert runner.go(more, hours=0.0) == 1


def test_figures_of_another_config_are_not_taken_for_the_plans(
    measured: tuple[Runner, list[Task]], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, todo = measured
    task = todo[0]
    other = replace(task, start=replace(task.start, config=replace(task.start.config, batch_size=16)))
    with pytest.raises(UserError, match=r"seed 0 was measured with another config \(batch_size: 16 here, 32 there\)"):
        runner.go([other], hours=None)
    monkeypatch.setattr(runner, "preset", replace(TOY, miou=replace(TOY.miou, epochs=7)))
    with pytest.raises(
        UserError, match=r"foreground\.json was measured with another config \(fit.epochs: 7 here, 1 there\)"
    ):
        runner.go([task], hours=None)


def test_figures_of_other_data_or_another_supervised_recipe_are_refused(
    measured: tuple[Runner, list[Task]], tmp_path: Path
) -> None:
    runner, todo = measured
    for change, told in (
        ({"images": 48}, r"moco-v3-vit-plain seed 0 was measured with another config \(data: scenes32-48"),
        ({"epochs": 2}, r"moco-v3-vit-plain seed 0 was measured with another config \(epochs: 2 here, 1 there\)"),
        ({"test": 12}, r"was measured with another config \(data: scenes32-"),
        (
            {"supervised": replace(TOY.supervised, epochs=3)},
            r"supervised-vit seed 0 .* \(fit.epochs: 3 here, 1 there\)",
        ),
    ):
        other = Runner(replace(TOY, **change), runner.places)  # type: ignore[arg-type]
        again = [replace(task, start=other.starts[task.start.name]) for task in todo if not task.start.as_long_as]
        with pytest.raises(UserError, match=told):
            other.go(again, hours=None)


def test_a_full_disk_is_no_failure_of_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner(TOY, Places(*(tmp_path / name for name in ("packages", "data", "work", "results"))))

    def measure(self: Runner, task: Task) -> None:
        raise RunError("could not write last.pt") from OSError("no space left on device")

    monkeypatch.setattr(Runner, "measure", measure)
    with pytest.raises(RunError, match="could not write"):
        runner.go([Task("1", Plan(TOY).start("moco-v3", "vit", "plain"), 0, "knn")], hours=None)
    assert not list(tmp_path.rglob("*failure*"))


def test_a_broken_training_is_told_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner(TOY, Places(*(tmp_path / name for name in ("packages", "data", "work", "results"))))
    start = Plan(TOY).start("moco-v3", "vit", "plain")
    asked = []

    def measure(self: Runner, task: Task) -> None:
        asked.append(task.seed)
        if task.seed == 0:
            raise RunError(f"the loss is not finite; see {runner.places.work}")
        self.path(task).parent.mkdir(parents=True, exist_ok=True)
        self.path(task).write_text("{}")

    monkeypatch.setattr(Runner, "measure", measure)
    todo = [Task("1", start, seed, name) for seed in (0, 1) for name in ("knn", "linear")]
    assert runner.go(todo, hours=None) == 2
    assert asked == [0, 1, 1]  # what a broken start could say else is not asked for
    text = page(runner.places.results, tmp_path, presets=[TOY], plots=False)
    assert "Broke down: fashion-moco-v3-vit-plain, seed 0: the loss is not finite; see WORK." in text


def replace_seed(task: Task, seed: int) -> Task:
    return replace(task, seed=seed)


def test_results_say_everything_but_where(measured: tuple[Runner, list[Task]]) -> None:
    runner, todo = measured
    for task in todo:
        text = runner.path(task).read_text()
        assert str(runner.places.work.parent) not in text
        content = json.loads(text)
        assert {"metrics", "config", "machine", "seconds", "seed", "data"} <= set(content)
        assert {"processor", "cores", "torch", "source"} <= set(content["machine"])
    note = json.loads(runner.note_path(todo[1].start, 0).read_text())
    assert note["config"]["reconstruction"]["weight"] == RunConfig().reconstruction.weight
    assert note["config"]["data"] == todo[1].start.data.name
    assert str(runner.places.work.parent) not in json.dumps(note)


def test_the_time_of_the_branch_is_given_back(measured: tuple[Runner, list[Task]]) -> None:
    runner, todo = measured
    longer = next(task.start for task in todo if task.start.as_long_as)
    note = json.loads(runner.note_path(longer, 0).read_text())
    assert note["time_ratio"] > 0
    assert note["epochs"] == max(1, round(TOY.epochs * note["time_ratio"]))


def test_what_takes_longer_is_told_by_trainings_that_take_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(turns.STEPS * 2 + 5):
        (images / f"{number:03}.png").touch()
    seconds = iter((3.0, 1.0, 10.0, 2.0, 4.0, 2.0))
    asked: list[tuple[float, int]] = []

    def trained(config: RunConfig, files: Path, out: Path) -> float:
        asked.append((config.reconstruction.weight, len(files.read_text().splitlines())))
        return next(seconds)

    monkeypatch.setattr(turns, "_seconds", trained)
    plan = Plan(TOY)
    branch, plain = (
        replace(plan.start("moco-v3", "vit", variant).config, batch_size=2) for variant in ("branch", "plain")
    )
    assert turns.longer(branch, plain, images=images, work=tmp_path / "work") == 3.0  # of 3, 5 and 2
    weight = branch.reconstruction.weight
    assert asked == [(weight, turns.STEPS * 2), (0.0, turns.STEPS * 2)] * turns.ROUNDS
    assert not (tmp_path / "work").exists()


def elsewhere(runner: Runner, folder: Path, **places: Path) -> Runner:
    """The same with a copy of its results."""
    shutil.copytree(runner.places.results, folder / "results")
    return Runner(TOY, replace(runner.places, results=folder / "results", **places))


def test_how_long_a_training_shall_take_is_measured_once(
    measured: tuple[Runner, list[Task]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, todo = measured
    longer = next(task.start for task in todo if task.start.as_long_as)
    other = elsewhere(runner, tmp_path, work=tmp_path / "work")
    monkeypatch.setattr("experiments.runner.longer", lambda *_, **__: pytest.fail("measured again"))
    noted = json.loads(runner.note_path(longer, 0).read_text())["time_ratio"]
    assert other.time_ratio(longer, 0) == noted
    again = Runner(TOY, replace(runner.places, results=tmp_path / "empty"))  # stopped before its note was written
    assert again.time_ratio(longer, 0) == noted


def test_a_training_that_ended_before_its_note_is_noted(measured: tuple[Runner, list[Task]], tmp_path: Path) -> None:
    runner, start = elsewhere(measured[0], tmp_path), measured[1][0].start
    note = runner.note_path(start, 0)
    before = note.read_text()
    note.unlink()
    runner.pretrain(start, 0)
    assert note.read_text() == before


def test_figures_of_an_encoder_that_is_gone_stay_where_it_is_trained_to_the_same_weights(
    measured: tuple[Runner, list[Task]], tmp_path: Path
) -> None:
    runner = elsewhere(measured[0], tmp_path, work=tmp_path / "work")
    todo = [task for task in measured[1] if task.start.name.endswith("vit-plain")]
    missing, others = runner.path(todo[0]), [runner.path(task) for task in todo[1:]]
    for path in others:
        path.write_text(path.read_text() + " ")  # told from one that is measured again
    missing.unlink()
    assert runner.go(todo, hours=None) == 0
    assert all(path.read_text().endswith(" ") for path in others)
    assert json.loads(missing.read_text())["weights"] == json.loads(others[0].read_text())["weights"]


def test_figures_of_other_weights_do_not_count_and_are_all_measured_again(
    measured: tuple[Runner, list[Task]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = elsewhere(measured[0], tmp_path, work=tmp_path / "work")
    todo = [task for task in measured[1] if task.start.name.endswith("vit-plain")]
    for dear in [task for task in todo if "upernet" in task.evaluation or "detect" in task.evaluation]:
        runner.path(dear).unlink()
        todo.remove(dear)
    start, wanted = todo[0].start, todo[0]
    for path in runner.note_path(start, 0).parent.iterdir():  # as another processor would have left them
        path.write_text(json.dumps(json.loads(path.read_text()) | {"weights": "another"}))
    runner.path(wanted).unlink()
    whole, stopped = Runner.measure_figure, iter((False, True))

    def stops(self: Runner, task: Task, spec: str) -> None:
        if next(stopped):
            raise KeyboardInterrupt
        whole(self, task, spec)

    def told() -> set[str]:
        return {evaluation for name, _, evaluation in load(runner.results) if name == start.name}

    assert wanted.evaluation not in told()
    with monkeypatch.context() as patched:
        patched.setattr(Runner, "measure_figure", stops)
        with pytest.raises(KeyboardInterrupt):
            runner.go([wanted], hours=None)
    assert told() == {wanted.evaluation}
    assert runner.go([wanted], hours=None) == 0  # measures those too that it was not asked for
    assert told() == {task.evaluation for task in todo}


def test_an_encoder_that_is_not_the_noted_one_is_noted(measured: tuple[Runner, list[Task]], tmp_path: Path) -> None:
    runner = elsewhere(measured[0], tmp_path)
    for name in ("vit-plain", "supervised-vit"):
        task = next(task for task in measured[1] if task.start.name.endswith(name))
        note = runner.note_path(task.start, 0)
        content = json.loads(note.read_text())
        note.write_text(json.dumps(content | {"weights": "another"}))  # results of another machine were merged in
        assert not runner.done(task)
        runner.spec(task.start, 0)
        assert json.loads(note.read_text()) == content
        assert runner.done(task)


def test_differences_between_machines_are_marked() -> None:
    rows = [row for row in Plan(TOY).confirmatory() if "vit" in row.label]
    results = fabricated({"foreground": {"plain": [0.5, 0.6], "branch": [0.54, 0.64]}})
    for content in results.values():
        content["machine"] = {"processor": "A", "torch": "2.15"}
    assert "†" not in markdown(lines(rows, results))
    results["fresh-fashion-moco-v3-vit-plain", FRESH, "foreground"]["machine"] = {"processor": "B", "torch": "2.15"}
    assert "(+4.0) †" in markdown(lines(rows, results))


def test_a_seed_that_one_start_lacks_is_a_dash() -> None:
    rows = [row for row in Plan(TOY).confirmatory() if "vit" in row.label]
    results = fabricated({"foreground": {"plain": [0.5, 0.6], "branch": [0.54, 0.64]}})
    del results["fresh-fashion-moco-v3-vit-plain", FRESH, "foreground"]
    assert "| – 60.0 | 60.0 |" in markdown(lines(rows, results))


def test_means_stand_by_start_and_figure() -> None:
    rows = [row for row in Plan(TOY).confirmatory() if "vit" in row.label]
    results = fabricated({"foreground": {"plain": [0.5, 0.6], "branch": [0.54]}, "knn": {"plain": [0.3], "branch": []}})
    assert means(lines(rows, results)).splitlines() == [
        "| mean (seeds), difference at equal seeds | object mIoU | k-NN |",
        "|---|---|---|",
        "| moco-v3 + vit | 55.0 (2) | 30.0 (1) |",
        "| moco-v3 + vit + branch | 54.0 (1), +4.0 | – |",  # at the first seed, where the other has 50
    ]


def test_figures_by_object_sum_up(measured: tuple[Runner, list[Task]]) -> None:
    runner, todo = measured
    whole, by_object = (
        json.loads(runner.path(next(t for t in todo if t.evaluation == name)).read_text())
        for name in ("knn", "objects")
    )
    assert by_object["metrics"]["knn20"] == pytest.approx(whole["metrics"]["knn20"])
    assert sum(count for _, count in by_object["details"]["objects"].values()) == TOY.test


def test_the_page_tells_what_is_there_and_what_is_not(measured: tuple[Runner, list[Task]], tmp_path: Path) -> None:
    runner, _ = measured
    text = page(runner.places.results, tmp_path, presets=[TOY, PRESETS["gpu"]], plots=False)
    assert "| object mIoU | moco-v3 + vit + branch |" in text
    assert "linear mIoU, 50% of the labels" in text
    assert "Not run yet: `python -m experiments.run --preset toy --only 2`" not in text  # defaults stand in 2 too
    assert "Not run yet: `python -m experiments.run --preset toy --only data`" in text
    assert "Not run yet: `python -m experiments.run --preset gpu --download`" in text
    machine = {key: value for key, value in runner.machine.items() if key != "source"}
    assert f" figures: {words(machine)}; source {runner.machine['source']}\n" in text


def fabricated(values: dict[str, dict[str, list[float]]]) -> dict[tuple[str, int, str], dict[str, Any]]:
    """Results of the toy's confirmatory pair: evaluation -> variant -> a figure for every seed."""
    metrics = {"foreground": "miou", "miou": "miou", "knn": "knn20", "linear": "accuracy"}
    return {
        (f"fresh-fashion-moco-v3-vit-{variant}", FRESH + seed, name): {"metrics": {metrics[name]: value}}
        for name, variants in values.items()
        for variant, figures in variants.items()
        for seed, value in enumerate(figures)
    }


def test_differences_are_paired_and_the_goal_is_judged() -> None:
    rows = [row for row in Plan(TOY).confirmatory() if "vit" in row.label]
    full = {"plain": [0.50, 0.60], "branch": [0.54, 0.6401]}
    results = fabricated(dict.fromkeys(("foreground", "miou", "knn", "linear"), full))
    found = lines(rows, results)
    gains = {line.figure: line.gain for line in found if line.gain}
    assert gains["object mIoU"].mean == pytest.approx(4.005)
    assert gains["object mIoU"].half == pytest.approx(12.706 * 0.01 / 2, rel=1e-3)  # two seeds: t of one degree
    assert "| 54.0 64.0 |" in markdown(found)
    assert "better" in markdown(found)
    assert "the gain is reached, and k-NN and linear are kept" in verdict(found, primary="object mIoU")
    del results["fresh-fashion-moco-v3-vit-branch", FRESH + 1, "knn"]
    assert "undecided" in verdict(lines(rows, results), primary="object mIoU")
    worse = fabricated(
        {n: {"plain": [0.5, 0.5], "branch": [0.49, 0.488]} for n in ("foreground", "miou", "knn", "linear")}
    )
    assert "**not** reached, and k-NN and linear are **not** kept" in verdict(lines(rows, worse), primary="object mIoU")


def test_goals_and_claims_are_read_off_the_tables(tmp_path: Path) -> None:
    preset = replace(TOY, seeds=2)
    results: dict[tuple[str, int, str], dict[str, Any]] = {}
    gains = {("moco-v3", "vit"): (0.02, 0.06), ("dino", "vit"): (0.01, 0.01), ("moby", "swin"): (0.07, 0.09)}
    for (framework, encoder), each in gains.items():
        for seed, more in enumerate(each):
            for variant, value in (("plain", 0.5), ("branch", 0.5 + more)):
                start = f"fashion-{framework}-{encoder}-{variant}"
                results[start, seed, "miou"] = {"metrics": {"miou": value}}
                results[start, seed, "knn"] = {"metrics": {"knn20": 1 - value}}
    results["fashion-random-vit", 0, "miou"] = {"metrics": {"miou": 0.3}}
    note = {"costs": {"encoder_parameters": 100, "decoder_parameters": 4, "encoder_flops": 200, "decoder_flops": 20}}
    for name, content in (("branch", note), ("plain-as-long", note | {"time_ratio": 1.06})):
        path = tmp_path / "toy" / f"fashion-moby-swin-{name}" / "seed0-train.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"start": path.parent.name, "seed": 0, **content}))
    text = summary(preset, Plan(preset).rows(), results, tmp_path)
    assert "| linear mIoU, at least +3 | box AP, at least +2 | k-NN, at least -0.5 | linear, at least -0.5 |" in text
    half = 12.706 * 2  # two seeds, 2 points on either side of their mean
    assert f"| moco-v3 + vit, exploratory | +4.0 [{4 - half:+.1f}, {4 + half:+.1f}] (2): open | – | -4.0" in text
    assert "| dino + vit, exploratory | (+1.0) (2): open | – | (-1.0) (2): open | – |" in text
    assert "| moby + vit, exploratory | – | – | – | – |" in text
    mean, spread = 13 / 3, (((4 - 13 / 3) ** 2 + (1 - 13 / 3) ** 2 + (8 - 13 / 3) ** 2) / 2) ** 0.5
    half = 4.303 * spread / 3**0.5
    assert f"interval over them | {mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}] (3): open |" in text
    assert "higher with the branch in 3 of 3 pairs, by 3 points or more in 2" in text
    assert "moby + swin 4%, 10%, +6%." in text
    assert "last level not measured" in text
    assert "| random | (-22.0) (1) |" in text
    empty = summary(preset, Plan(preset).rows(), {}, tmp_path / "none")
    assert empty.count("Not measured yet.") == 3


def test_the_bootstrap_resamples_objects_not_images() -> None:
    rng = np.random.default_rng(0)
    theirs = {f"o{n}": (int(rng.integers(4)), 10) for n in range(40)}
    mine = {name: (right + 2, count) for name, (right, count) in theirs.items()}
    assert bootstrap(mine, theirs) == pytest.approx((20.0, 20.0, 20.0))  # every object gains alike: no spread
    uneven = {name: (right + 4 * (n % 2), 10) for n, (name, (right, _)) in enumerate(theirs.items())}
    mean, low, high = bootstrap(uneven, theirs)
    assert mean == pytest.approx(20.0)
    spread = 40 * 0.5 / 40**0.5  # standard error of the mean of 40 objects that gain 0 or 40 points
    assert (low, high) == pytest.approx((20 - 1.96 * spread, 20 + 1.96 * spread), abs=1.0)


def test_folds_are_pooled_pairwise() -> None:
    preset = replace(TOY, folds=(0, 1))
    rows = [row for row in Plan(preset).stamps() if "vit" in row.label]
    results: dict[tuple[str, int, str], Any] = {}
    for row, hits in zip(rows, (1, 2, 3, 4)):
        results[row.start.name, 0, "objects"] = {"details": {"objects": {f"o{row.label[-1]}": [hits, 5]}}}
    assert [without_fold(row.label) for row in rows] == ["moco-v3 + vit", "moco-v3 + vit + branch"] * 2
    del results[rows[3].start.name, 0, "objects"]  # without its partner the second plain start does not count either
    pools = pooled_objects(rows, results)
    assert {label: sum(right for right, _ in pool.values()) for label, pool in pools.items()} == {
        "moco-v3 + vit": 1,
        "moco-v3 + vit + branch": 2,
    }


def test_folds_count_once_each() -> None:
    preset = replace(TOY, folds=(0, 1))
    rows = [row for row in Plan(preset).stamps() if "vit" in row.label]
    results = {
        (row.start.name, 0, "knn"): {"metrics": {"knn20": value}} for row, value in zip(rows, (0.3, 0.32, 0.4, 0.46))
    }
    half = 12.706 * 2  # of two folds, 2 points on either side of their mean
    assert over_folds(lines(rows, results)).splitlines()[-1] == (
        f"- moco-v3 + vit + branch: k-NN +4.0 [{4 - half:+.1f}, {4 + half:+.1f}] (2)"
    )


def test_pictures_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'repre[dev]'")
    from experiments.plots import draw, draw_differences

    rows = list(Plan(TOY).confirmatory())
    results = fabricated({"foreground": {"plain": [0.5, 0.6], "branch": [0.54, 0.65]}})
    assert [path.is_file() for path in draw(lines(rows, results), tmp_path / "a.png")] == [True]
    assert draw([], tmp_path / "b.png") == []
    pairs = {
        (f"fashion-{framework}-vit-{variant}", 0, evaluation): {"metrics": {"miou": 0.5, "knn20": 0.5}}
        for framework in ("moco-v3", "dino", "moby")
        for variant in ("plain", "branch")
        for evaluation in ("foreground", "knn")
        if evaluation == "foreground" or framework == "dino"
    }
    figure = draw_differences(lines(list(Plan(TOY).frameworks()), pairs))
    assert figure is not None
    assert [panel.get_title() for panel in figure.axes] == ["object mIoU"]  # k-NN is known of one start alone


@pytest.mark.parametrize("name", PRESETS)
def test_encoders_take_the_sizes_of_their_preset(name: str) -> None:
    preset = PRESETS[name]
    for config in preset.encoders.values():
        encoder = Encoder(replace(config, image_size=preset.size))
        encoder.check_size(preset.local_size, preset.local_size)
        assert preset.size % preset.mask_patch == 0
    assert len(Encoder(replace(preset.encoders["vit"], image_size=preset.size)).out_indices) == 4  # table 2 names them


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("run --preset toy --list --only 3 --seeds 1", "fashion-pixels-vit-simmim"),
        ("tables --no-plots --results . --docs .", "written to evidence.md"),
    ],
)
def test_the_commands_of_the_page_work_in_a_process_of_their_own(tmp_path: Path, command: str, told: str) -> None:
    module, *rest = command.split()
    (tmp_path / "cpu").mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", f"experiments.{module}", *rest],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert told in done.stdout


def test_without_a_gpu_its_preset_is_refused_and_still_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for option, code in (("--list", 0), ("--download", 2)):
        given = ["run", "--preset", "gpu", "--only", "data", "--results", str(tmp_path), option]
        monkeypatch.setattr(sys, "argv", given)
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == code
    said = capsys.readouterr()
    assert said.out.count("to do") == len([task for task in tasks(Plan(PRESETS["gpu"]).rows()) if task.table == "data"])
    assert said.err.startswith(
        "error: --preset gpu: this machine, or this build of torch, has no CUDA; take --preset cpu"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("--results", "typo"), "error: --results typo: there are no results"),
        (("--results", ".", "--docs", "nowhere"), "error: --docs nowhere: there is no such folder"),
        (("--results", ".", "--docs", "."), "error: pictures need matplotlib: pip install"),
    ],
)
def test_mistakes_leave_the_page_as_it_was(
    given: tuple[str, ...],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "evidence.md").write_text("before")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("experiments.tables.find_spec", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["tables", *given])
    with pytest.raises(SystemExit) as stopped:
        write_page()
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err
    assert (tmp_path / "evidence.md").read_text() == "before"
