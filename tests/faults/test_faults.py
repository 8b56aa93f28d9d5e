"""The fault matrix, a short version of every row; `make faults` does all of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.__main__ import AREAS
from tests.faults.page import BEGIN, END, table, write_page

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("area", AREAS)
def test_everything_that_breaks_is_borne(tmp_path: Path, area: str) -> None:
    out = tmp_path / "results.json"
    words = [sys.executable, "-m", "tests.faults", area, "--short", "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(
        words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    rows = json.loads(out.read_text())[area]
    assert rows
    assert all(row["passed"] for row in rows), done.stdout


def test_a_row_that_failed_says_so_first(tmp_path: Path) -> None:
    row = {"area": "Kill", "fault": "a|b", "times": 2, "happened": "lost", "lost": "all", "seconds": 60.0}
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_page({"kills": [row | {"passed": False}], "stops": [row | {"passed": True}]}, page)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert "| Kill: a\\|b | 2 | **not as promised:** lost | all |" in text
    assert "1 of 2 rows as promised; 2 minutes in all." in text


def test_the_page_shows_the_results_that_lie_beside_the_code() -> None:
    results = json.loads((ROOT / "tests/faults/results.json").read_text())
    assert set(results) == set(AREAS)
    assert table(results) in (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
