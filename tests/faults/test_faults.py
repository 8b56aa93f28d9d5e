"""A short version of every row of the fault matrix; `make faults` measures all of it. And the page of the matrix."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.__main__ import AREAS
from tests.faults.page import BEGIN, END, table, write_page

ROOT = Path(__file__).parents[2]


@pytest.mark.slow  # the processes of all rows; one start of Python for all
def test_runs_survive_every_fault(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    process = subprocess.run(
        [sys.executable, "-m", "tests.faults", "--short", "--out", str(out)],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr[-3000:]
    results = json.loads(out.read_text())
    assert set(results) == set(AREAS)
    assert all(rows and all(row["passed"] for row in rows) for rows in results.values()), process.stdout


def test_a_row_that_failed_says_so(tmp_path: Path) -> None:
    row = {"area": "Kill", "fault": "a|b", "times": 2, "happened": "lost", "lost": "all", "seconds": 60.0}
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_page({"kills": [row | {"passed": False}], "stop_signals": [row | {"passed": True}]}, page)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert "| Kill: a\\|b | 2 | **not as promised:** lost | all |" in text
    assert "1 of 2 rows as promised; 2 minutes in all." in text


def test_the_page_shows_the_stored_results() -> None:
    results = json.loads((ROOT / "tests/faults/results.json").read_text())
    assert set(results) == set(AREAS)
    assert table(results) in (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
