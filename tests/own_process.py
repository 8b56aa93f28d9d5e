"""Runs Python in a process of its own that is forked from this one, so that it need not import everything again.

A fresh interpreter takes six seconds for torch and timm alone. Tests start one only where the start is what they test.
"""

import multiprocessing
import os
import runpy
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Ended(NamedTuple):
    """A process that has ended."""

    returncode: int
    stdout: str
    stderr: str


def call(function: Callable[[], object], *, arguments: tuple[str, ...] = (), folder: Path | None = None) -> Ended:
    """Calls a function as a program does: what it returns or exits with is the exit code.

    Args:
        arguments: `sys.argv`.
        folder: working directory.
    """
    with tempfile.TemporaryDirectory(prefix="repre-tests-") as printed:
        files = [Path(printed) / name for name in ("stdout", "stderr")]
        process = multiprocessing.get_context("fork").Process(target=_run, args=(function, arguments, folder, files))
        process.start()
        process.join()
        assert process.exitcode is not None
        return Ended(process.exitcode, *(file.read_text(errors="replace") if file.exists() else "" for file in files))


def run_file(path: Path, *arguments: str, folder: Path | None = None) -> Ended:
    """`python PATH ARGUMENTS`."""

    def program() -> None:
        sys.path.insert(0, str(path.parent))
        runpy.run_path(str(path), run_name="__main__")

    return call(program, arguments=(str(path), *arguments), folder=folder)


def run_module(name: str, *arguments: str, folder: Path | None = None) -> Ended:
    """`python -m NAME ARGUMENTS`."""

    def program() -> None:
        sys.modules.pop(name, None)  # one that was imported would be run a second time with a warning
        runpy.run_module(name, run_name="__main__", alter_sys=True)

    return call(program, arguments=(name, *arguments), folder=folder)


def _run(function: Callable[[], object], arguments: tuple[str, ...], folder: Path | None, files: list[Path]) -> None:
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    sys.argv = list(arguments)
    if folder is not None:
        os.chdir(folder)
    try:
        code = function()
    except SystemExit as exit:
        code = exit.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
    sys.stdout.flush()
    sys.exit(code if isinstance(code, int) else int(code is not None))
