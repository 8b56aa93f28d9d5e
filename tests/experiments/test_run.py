"""The command `python -m experiments.run`."""

import sys
from pathlib import Path

import pytest
from experiments.all_presets import PRESETS
from experiments.plan import Plan, tasks
from experiments.run import is_chosen, main

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
