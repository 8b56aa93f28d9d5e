"""Readers that leave, full disks, closed descriptors, terminals without some characters: no traceback, the work is done."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Repre

PROCESS = [sys.executable, "-m", "repre.cli"]


def shell(command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """A bash command in which $REPRE starts `repre`."""
    variables = os.environ | {"REPRE": " ".join(PROCESS)} | environment
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, env=variables)


@pytest.mark.parametrize("arguments", ["--help", "report --help", "data --help"])
def test_a_reader_that_leaves_ends_a_command_quietly(arguments: str) -> None:
    process = shell(f"(sleep 0.2; $REPRE {arguments}) | true; echo ${{PIPESTATUS[0]}}")
    assert (process.stdout, process.stderr) == ("141\n", "")


def test_a_full_disk_under_the_output_is_said() -> None:
    process = shell("$REPRE --help > /dev/full")
    assert process.returncode == 1
    assert process.stderr == "repre: the output could not be written: No space left on device\n"


def test_closed_descriptors_do_no_harm(tmp_path: Path) -> None:
    assert shell("$REPRE --help >&-").returncode == 0
    assert shell(f"$REPRE report {tmp_path} <&- >&- 2>&-").returncode == 2


def test_characters_that_a_terminal_lacks_are_escaped(tmp_path: Path) -> None:
    process = shell(f"$REPRE report {tmp_path}/été$'\\xff'", PYTHONIOENCODING="ascii")
    assert process.returncode == 2
    assert f"{tmp_path}/\\xe9t\\xe9" in process.stderr


@pytest.mark.parametrize("columns", ["1", "2", "20"])
def test_help_ends_on_a_terminal_of_a_few_columns(columns: str, repre: Repre, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert repre("report", "--help")[0] == 0
    assert repre("report", "--unknown")[0] == 2
    assert os.environ["COLUMNS"] == columns
