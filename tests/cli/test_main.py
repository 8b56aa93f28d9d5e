"""The entry point: help without torch, exit codes, and one line for every mistake."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from repre import __version__, api
from repre.cli.main import MODULES, USAGE, main
from repre.errors import RunError, UserError
from repre.utils.signals import Interrupted
from tests.cli.conftest import Repre
from tests.terminal import output_on_terminal

NO_TORCH = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError("torch was imported")

sys.meta_path.insert(0, Blocked())
from repre.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def call_without_torch(*arguments: object) -> "subprocess.CompletedProcess[str]":
    """`repre ARGUMENTS` in a process that cannot import torch."""
    command = [sys.executable, "-c", NO_TORCH, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_usage_names_every_command(repre: Repre) -> None:
    code, out, _ = repre("--help")
    assert code == 0
    assert all(f"repre {command}" in out for command in MODULES)
    assert repre("help") == (0, out, "")
    assert repre()[:2] == (2, out)
    assert max(map(len, USAGE.splitlines())) <= 120


def test_version(repre: Repre) -> None:
    assert repre("--version") == (0, f"{__version__}\n", "")


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], *([name, "--help"] for name in ("report", "data", "eval", "embed", "reconstruct"))],
)
def test_help_needs_no_torch(arguments: list[str]) -> None:
    process = call_without_torch(*arguments)
    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize("arguments", [["pretrain"], ["eval", "knn"], ["compare"]])
def test_help_needs_neither_timm_nor_the_compiler(arguments: list[str]) -> None:
    heavy = "timm", "torchvision", "torch._dynamo", "sympy"
    code = (
        "import sys; from repre.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        f"finally: sys.exit([name for name in {heavy} if name in sys.modules] or 0)"
    )
    command = [sys.executable, "-c", code, *arguments, "--help"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("usage: repre")


@pytest.mark.parametrize(
    ("arguments", "rank", "first_line"),
    [
        (["eval", "knn", "--encoder", "x"], "0", f"repre {__version__} eval: loading PyTorch\n"),
        (["eval", "knn", "--encoder", "x"], "1", ""),
        (["report", "runs/a"], "0", ""),
    ],
)
def test_the_first_line_comes_before_torch(arguments: list[str], rank: str, first_line: str) -> None:
    command = [sys.executable, "-c", NO_TORCH, *arguments]
    environment = os.environ | {"RANK": rank}
    process = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert "loading" in first_line or "loading" not in process.stderr
    assert process.stderr.startswith(first_line)


def test_a_report_needs_no_torch(finished_run: Path, tmp_path: Path) -> None:
    process = call_without_torch("report", finished_run, "--out", tmp_path / "report.html")
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "report.html").is_file()


def test_python_m_repre_cli() -> None:
    command = [sys.executable, "-m", "repre.cli", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"{__version__}\n"


def test_an_unknown_command_suggests_a_near_one(repre: Repre) -> None:
    code, _, err = repre("pretrian")
    assert code == 2
    assert "did you mean 'pretrain'?" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("a mistake"), 2, "repre: a mistake\n"),
        (RunError("disk full"), 1, "repre: disk full\n"),
        (Interrupted("stopped at step 3", code=143), 143, "repre: stopped at step 3\n"),
        (KeyboardInterrupt(), 130, "repre: interrupted\n"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
            1,
            "repre: memory ran out (CUDA out of memory. Tried to allocate 2 GiB): end other processes that use it, use a "
            "smaller batch or smaller images, or --runtime.device cpu\n",
        ),
    ],
)
def test_errors_become_a_line_and_an_exit_code(
    error: BaseException, code: int, message: str, repre: Repre, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **settings: object) -> None:
        raise error

    monkeypatch.setattr(api, "report", fail)
    assert repre("report", "runs/a") == (code, "", message)


def test_other_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **settings: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(api, "report", fail)
    with pytest.raises(ZeroDivisionError):
        main(["report", "runs/a"])


@pytest.mark.parametrize("arguments", [["report", "--help"], ["report", "--unknown"]])
@pytest.mark.parametrize("no_color", [False, True])
def test_a_terminal_gets_color_unless_no_color_is_set(arguments: list[str], no_color: bool) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm"}
    if no_color:
        environment["NO_COLOR"] = "1"
    command = [sys.executable, "-m", "repre.cli", *arguments]
    printed = output_on_terminal(command, environment=environment)
    assert len(printed) > 100
    assert (b"\x1b[" in printed) is not no_color


def test_a_pipe_gets_no_color() -> None:
    command = [sys.executable, "-m", "repre.cli", "report", "--unknown"]
    process = subprocess.run(command, capture_output=True, check=False)
    assert process.returncode == 2
    assert b"\x1b[" not in process.stdout + process.stderr
