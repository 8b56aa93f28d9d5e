"""The command `python -m experiments.run`."""

import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from experiments.all_presets import PRESETS
from experiments.methods import Task, tasks
from experiments.plan import Plan
from experiments.run import is_chosen, main
from experiments.runner import Runner

from repre.errors import RunError
from tests.own_process import run_module


def test_tables_can_be_chosen() -> None:
    assert all(is_chosen("2", only) for only in ([], ["exploratory"], ["1", "2"]))
    assert not is_chosen("2", ["confirmatory"])
    assert not is_chosen("confirmatory", ["exploratory"])


def test_methods_can_be_chosen_by_their_names(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = {"--preset": ["real-toy"], "--only": ["camvid"], "--methods": ["plain", "branch"], "--seeds": ["1"]}
    arguments = [word for option, values in options.items() for word in (option, *values)]
    monkeypatch.setattr(sys, "argv", ["run", *arguments, "--list", "--results", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 0
    names = {line.split()[1] for line in capsys.readouterr().out.splitlines()}
    frameworks = ("moco-v3", "dino", "dinov2")
    assert names == {f"camvid-{framework}-vit-{branch}" for framework in frameworks for branch in ("plain", "branch")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("run --preset toy --list --only 3 --seeds 1", "fashion-pixels-vit-simmim"),
        ("tables --no-plots --results . --docs .", "written to evidence.md"),
    ],
)
def test_the_commands_of_the_page_work_in_their_own_process(tmp_path: Path, command: str, expected: str) -> None:
    module, *arguments = command.split()
    (tmp_path / "cpu").mkdir()
    process = run_module(f"experiments.{module}", *arguments, folder=tmp_path)
    assert process.returncode == 0, process.stderr
    assert expected in process.stdout


def test_without_a_gpu_its_preset_is_listed_but_not_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for option, code in (("--list", 0), ("--download", 2)):
        arguments = ["run", "--preset", "gpu", "--only", "data", "--results", str(tmp_path), option]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == code
    printed = capsys.readouterr()
    in_table = [task for task in tasks(Plan(PRESETS["gpu"]).rows()) if task.table == "data"]
    assert printed.out.count("to do") == len(in_table)
    assert printed.err.startswith("error: --preset gpu needs CUDA")
    assert "use --preset cpu" in printed.err
    assert not list(tmp_path.iterdir())


@pytest.fixture
def toy_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """Runs three methods of the toy preset; a measurement leaves a file, and that of moco-v3-vit-branch fails."""

    def path(task: Task) -> Path:
        return tmp_path / "done" / f"{task.method.name}-{task.seed}-{task.evaluation}"

    def measure(self: Runner, task: Task) -> None:
        (tmp_path / "pids" / str(os.getpid())).touch()
        until = time.monotonic() + 60
        while len(list((tmp_path / "pids").iterdir())) < 2 and time.monotonic() < until:
            time.sleep(0.01)  # the other process is starting
        if task.method.name.endswith("vit-branch"):
            raise RunError("the loss is not finite")
        path(task).touch(exist_ok=False)  # fails if it is measured twice
        self.report(f"{task.method.name} {task.evaluation}: fine")

    def run(*options: str) -> int:
        folders = [f"--{name}={tmp_path / name}" for name in ("packages", "data", "work", "results")]
        monkeypatch.setattr(sys, "argv", ["run", "--preset", "toy", "--only", "1", "--seeds", "1", *folders, *options])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert isinstance(stopped.value.code, int)
        return stopped.value.code

    for name in ("done", "pids"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(Runner, "measure", measure)
    monkeypatch.setattr(Runner, "is_done", lambda self, task: path(task).exists())
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    return run


def test_processes_share_the_tasks_and_a_failing_method_stops_none_of_the_others(
    toy_run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ("--methods", "moco-v3-vit-plain", "moco-v3-vit-branch", "dino-vit-plain", "supervised-vit")
    assert toy_run("--processes", "2", "--minutes", "10", *chosen) == 1
    printed = capsys.readouterr().out
    done = [path.name for path in (tmp_path / "done").iterdir()]
    pids = {path.name for path in (tmp_path / "pids").iterdir()}
    assert len(pids) == 2
    assert str(os.getpid()) not in pids
    assert printed.count(": fine") == len(done) > 2
    [failure] = [line for line in printed.splitlines() if "failed" in line]
    assert re.match(r"fashion-moco-v3-vit-branch seed 0 \w+: failed: the loss is not finite; see .*/work/logs", failure)
    assert toy_run("--processes", "2", "--minutes", "0", *chosen) == 1
    assert f"{len(done)} of " in capsys.readouterr().out


def test_without_time_nothing_is_measured(
    toy_run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert toy_run("--minutes", "0") == 1
    assert re.search(r"out of time: 0 tasks cut off, \d+ not started; run the same command", capsys.readouterr().out)
    assert not list((tmp_path / "done").iterdir())
    assert not (tmp_path / "results").exists()
    for options in (("--processes", "0"), ("--processes", "2", "--hours", "1")):
        assert toy_run(*options) == 2
    assert "give 1 or more" in (errors := capsys.readouterr().err)
    assert "--hours is for one process" in errors
