"""Values that options seldom expect, and what became of a command that got one."""

import contextlib
import io
import os
import resource
import shutil
import signal
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from repre.cli.main import main
from tests.fuzz.commands import Option, Reached

SECONDS = 60
"""Time after which a command counts as hanging."""
MORE_BYTES = 6 << 30
"""Memory that a command may take beyond what the process has."""
MAX_LINES = 400
"""Longest message; tyro repeats a value of 5000 characters in it several times."""
VALUES: dict[str, list[str]] = {
    "negative": ["-1"],
    "negative fraction": ["-0.5"],
    "zero": ["0"],
    "huge": ["99999999999999999999999"],
    "large": ["5000000000"],
    "huge exponent": ["1e300"],
    "nan": ["nan"],
    "inf": ["inf"],
    "empty": [""],
    "none": [],
    "non-ASCII": ["été"],
    "not UTF-8": ["caf\udce9"],
    "control": ["a\x1b[31m\nb"],
    "null": ["a\0b"],
    "long": ["a" * 5000],
    "folder": ["FOLDER"],
    "file": ["FILE"],
    "below a file": ["FILE/x"],
    "missing": ["missing/x"],
    "loop": ["LOOP"],
    "no such user": ["~nobody-xyz/a"],
    "variable": ["$VAR"],
    "JSON": ["{}"],
    "twice": ["1", "1"],
    "five": ["1", "2", "3", "4", "5"],
    "dots": ["../.."],
}
"""Kinds of values; FOLDER, FILE and LOOP become paths of these kinds. ``none`` gives the option alone."""


@dataclass(frozen=True)
class Outcome:
    """What became of a command.

    Attributes:
        code: its exit code; 0 also if it accepted its input.
        problem: what is wrong with that; empty if nothing is.
        printed: what it printed on standard error, or the traceback.
    """

    code: int
    problem: str
    printed: str


def make_paths(folder: Path) -> dict[str, str]:
    """A folder, a file, and a link to itself."""
    paths = {"FOLDER": folder / "a_folder", "FILE": folder / "a_file", "LOOP": folder / "a_loop"}
    paths["FOLDER"].mkdir()
    paths["FILE"].write_bytes(b"\x93 no image, no table\n" * 20)
    paths["LOOP"].symlink_to(paths["LOOP"])
    return {name: str(path) for name, path in paths.items()}


def with_value(arguments: Sequence[str], option: Option, kind: str, paths: dict[str, str]) -> list[str]:
    """The arguments of a command with one more value: of an option, in place of the one that it had, or without one."""
    values = [value.replace("FILE", paths["FILE"]) for value in VALUES[kind]]
    values = [paths.get(value, value) for value in values]
    if not option.name:
        return [*arguments, *values]
    kept = _without(arguments, option.name)
    if len(values) == 1 and values[0].startswith("-"):
        return [*kept, f"{option.name}={values[0]}"]
    return [*kept, option.name, *values]


def _without(arguments: Sequence[str], name: str) -> list[str]:
    kept: list[str] = []
    skipping = False
    for argument in arguments:
        skipping = argument == name or (skipping and not argument.startswith("--"))
        if not skipping and not argument.startswith(f"{name}="):
            kept.append(argument)
    return kept


def run(arguments: list[str], folder: Path) -> Outcome:
    """Runs a command in an empty folder, which is emptied again."""
    out, err = io.StringIO(), io.StringIO()
    code, problem = 0, ""
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _alarm(), contextlib.chdir(folder):
        try:
            code = main(arguments)
        except Reached:
            pass
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else 1
        except BaseException as error:
            problem = f"{type(error).__name__}: {str(error)[:200]}"
            traceback.print_exc(file=err)
            if isinstance(error, KeyboardInterrupt):
                raise
    if not problem and code not in (0, 1, 2):
        problem = f"exit code {code}"
    if not problem and code and not (err.getvalue() + (out.getvalue() if code == 1 else "")).strip():
        problem = "no message"
    if not problem and len(err.getvalue().splitlines()) > MAX_LINES:
        problem = f"a message of more than {MAX_LINES} lines"
    left = sorted(path.name for path in folder.iterdir())
    if not problem and code == 2 and left:
        problem = f"refused, but left {', '.join(left)}"
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    return Outcome(code, problem, err.getvalue())


class Hangs(BaseException):
    """A command took longer than `SECONDS`."""


@contextlib.contextmanager
def _alarm() -> Iterator[None]:
    def ring(number: int, frame: Any) -> None:
        raise Hangs(f"no end after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def sandbox() -> Iterator[None]:
    """Inside, look-ups of weights and data stay on this machine, and memory beyond `MORE_BYTES` is refused."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MORE_BYTES, before[1]))
    try:
        with patch.dict(os.environ, {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}):
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
