"""Runs one thing that a page tells people to run, in the working folder, and looks at what it leaves."""

import contextlib
import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import repre
from repre import api
from repre.cli.main import main
from tests.pages.reading import Step
from tests.pages.toys import EVALUATIONS, ON_CPU, smaller, split

NAMES: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"(RECIPE.*--out )runs/photos", r"\1runs/recipe"),
    (r"\bRECIPE\b", "quickstart"),
    (r"\bMODEL\b", "runs/photos/evaluations/segment-000000000000.json"),
    (r"(runs/\w+)/evaluations/([a-z-]+)-[0-9a-f]{12}(\.json|/model)?", lambda match: _newest_result(match)),
    (r"(?<![\w/])/data\b", "data"),
    (r"(?<![\w/])/runs\b", "shared/runs"),
    (r"\b(RUN|A)\b", "runs/photos"),
    (r"\bB\b", "runs/b"),
    (r"\bNEW\b", "runs/new"),
    (r"\bIMAGE\b", "photos/a.jpg"),
    (r"\bFOLDER\b", "folder"),
    (r"\bS\b", "0"),
    (r"runs/sS\b", "runs/s0"),
)
"""Names of the pages that stand for something else; those of results have the hash of the settings."""
LAUNCHER = (
    "--max-restarts",
    "--nnodes",
    "--node-rank",
    "--rdzv-id",
    "--rdzv-backend",
    "--rdzv-endpoint",
    "--master-addr",
    "--master-port",
)
"""Options of torchrun that are left out: everything runs on one machine."""
TORCHRUN_SECONDS = 300
"""Two processes take ten seconds alone, and more beside other tests."""
OF_A_RUN = (
    *("report.html", "encoder/model.safetensors", "encoder/config.json", "checkpoints/last.pt", "metrics.jsonl"),
    *("metrics.csv", "tensorboard", "panel", "config.yaml", "environment.json", "log.txt", "summary.json"),
)
"""What docs/start.md says that the folder of a run holds."""


class Failed(Exception):
    """A command did not do what its page says."""


def in_sandbox(text: str) -> str:
    """A command with the names of this sandbox."""
    for pattern, name in NAMES:
        text = re.sub(pattern, name, text)
    return text


def _newest_result(match: re.Match[str]) -> str:
    results = sorted(Path(match[1], "evaluations").glob(f"{match[2]}-*.json"), key=lambda path: path.stat().st_mtime)
    if not results:
        raise Failed(f"tests/pages/sandbox.py fits no {match[2]} of {match[1]}: add it to FITTED")
    suffix = match[3] or ""
    return str(results[-1] if suffix == ".json" else results[-1].with_suffix("")) + suffix.replace(".json", "")


def words(command: str) -> list[str]:
    """The words of a command, up to where its output goes."""
    found = shlex.split(command)
    return found[: found.index(">")] if ">" in found else found


def run_repre(step: Step, arguments: list[str]) -> None:
    """Runs `repre ARGUMENTS` here. It must end with 0, or with 2 where the comment of the line says `refused`.

    Raises:
        Failed: another exit code, or a file that the pages promise is not there.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(arguments)
        except SystemExit as exit:
            code = int(exit.code or 0)
    _judge(step, arguments, code, out.getvalue() + err.getvalue())


def run_torchrun(step: Step, command: list[str]) -> None:
    """Runs `torchrun ... -m repre.cli ARGUMENTS` with two processes, on the CPU."""
    place = command.index("repre.cli")
    options = dict(split(command[1 : place - 1])[1]) | {"--nproc-per-node": ["2"]}
    launcher = [word for name, values in options.items() if name not in LAUNCHER for word in (name, *values)]
    arguments = smaller(command[place + 1 :])
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", *launcher, "-m", "repre.cli", *arguments]
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    ) as launched:
        try:
            printed, _ = launched.communicate(timeout=TORCHRUN_SECONDS)
        except subprocess.TimeoutExpired as error:
            os.killpg(launched.pid, signal.SIGTERM)  # the launcher, which ends its processes
            raise Failed(f"{step}\nhad not ended after {TORCHRUN_SECONDS} s") from error
    _judge(step, arguments, launched.returncode, printed)


def run_file(step: Step, command: list[str]) -> None:
    """Runs `python FILE ARGUMENTS`, where FILE takes the commands of `repre`.

    In an interpreter of its own: a forked process cannot train after this one has used autograd.
    """
    ended = subprocess.run([sys.executable, command[1], *smaller(command[2:])], capture_output=True, text=True)
    _judge(step, command[2:], ended.returncode, ended.stdout + ended.stderr)


def _judge(step: Step, arguments: list[str], code: int, printed: str) -> None:
    expected = 2 if step.comment.startswith("refused") else 0
    said = f"{step}\nran as: repre {shlex.join(arguments)}\n"
    if code != expected:
        raise Failed(f"{said}ended with {code}, not {expected}:\n{printed[-3000:]}")
    missing = [path.as_posix() for path in _promised(arguments) if not path.exists()] if code == 0 else []
    if missing:
        raise Failed(f"{said}left no {', '.join(missing)}:\n{printed[-3000:]}")


def _promised(arguments: list[str]) -> list[Path]:
    """Files and folders that the pages say a command leaves."""
    plain, listed = split(arguments)
    if not plain:  # repre --version
        return []
    options = {name: [Path(value) for value in values] for name, values in listed}
    out = options.get("--out", [])
    if plain[0] == "pretrain":
        return [folder / name for folder in [*out, *options.get("--resume", [])] for name in OF_A_RUN]
    if plain[0] == "compare":
        return [folder / f"compare.{kind}" for folder in out or [Path("comparison")] for kind in ("md", "csv", "json")]
    if plain[0] == "report":
        return out or [Path(plain[1]) / "report.html"] * (len(plain) == 2)
    if plain[0] == "embed" and "--map" in options:
        return [*out, *(file.with_suffix(f".map.{kind}") for file in out for kind in ("csv", "html"))]
    if plain[0] == "predict":
        return [folder / "overlays" for folder in out if "linear" not in str(options["--model"])]
    if plain[0] == "eval" and "--out" not in options and str(options["--encoder"][0]) == "runs/photos":
        return [Path("runs/photos/evaluations")]
    return out


def run_python(step: Step, names: dict[str, Any], patch: pytest.MonkeyPatch) -> None:
    """Runs a Python block; the names that it makes stay for the next block of the page."""
    patch.setattr(repre, "pretrain", _toy_pretrain)
    patch.setattr(repre, "evaluate", _toy_evaluate)
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            exec(compile(in_sandbox(step.text), f"{step.page}:{step.line}", "exec"), names)
    except Exception as error:
        raise Failed(f"{step}\n{traceback.format_exc()}") from error


def _toy_pretrain(config: str | None = None, **settings: Any) -> repre.Run:
    """`repre.pretrain` at toy size."""
    options = {name.replace("start_from", "from").replace("_", "-"): value for name, value in settings.items()}
    line = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    shutil.rmtree(
        settings["out"], ignore_errors=True
    )  # the page may have trained this by a command with other settings
    assert main(smaller(["pretrain", *([config] if config else []), *line])) == 0
    return repre.Run(Path(settings["out"]))


def _toy_evaluate(evaluation: str, encoder: str, **settings: Any) -> Any:
    """`repre.evaluate` at toy size."""
    config: dict[str, Any] = {}
    for name, value in (EVALUATIONS[evaluation] | ON_CPU).items():
        *groups, key = name.removeprefix("--").replace("-", "_").split(".")
        part = config
        for group in groups:
            part = part.setdefault(group, {})
        part[key] = yaml.safe_load(value)
    return api.evaluate(evaluation, encoder, **(config | settings))
