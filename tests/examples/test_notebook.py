"""The notebook runs from its first to its last cell, at toy size and without Jupyter."""

import ast
import json
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from repre.cli.main import main

NOTEBOOK = json.loads((Path(__file__).parents[2] / "examples/repre.ipynb").read_text(encoding="utf-8"))
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
TOY = {"DATA": "scenes:400:48", "EPOCHS": 1, "LABELED": "scenes:64:48", "MASKS": "scenes:48:48", "HEAD_EPOCHS": 1}


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Runs a cell as Jupyter does: `!repre` and `%pip` lines are commands, and the value of the last line is shown."""
    names["command"] = lambda line: main(shlex.split(line))
    source = re.sub(r"^( *)%pip .*$", r"\1raise AssertionError('repre is installed')", source, flags=re.M)
    source = re.sub(r"^!repre (.*)$", r"assert command('''\1''') == 0", source, flags=re.M)
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)


@pytest.mark.slow
def test_every_cell_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPRE_CACHE", str(tmp_path / "cache"))
    shown: list[Any] = []
    display = ModuleType("IPython.display")
    display.HTML = display.Markdown = str  # type: ignore[attr-defined]
    display.display = shown.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    names: dict[str, Any] = {}
    results = []
    for cell in CODE:
        results.append(run_cell("".join(cell["source"]), names))
        if "parameters" in cell["metadata"].get("tags", []):
            assert set(TOY) <= set(names)
            names |= TOY
    assert (tmp_path / "runs/notebook/report.html").is_file()
    report, table = shown
    assert "&lt;html" in report
    assert "random:" in table
    assert sum(isinstance(result, Image.Image) for result in results) == 2
    assert 0 < names["result"].metrics[names["result"].main] <= 1
    assert results[-1] == 96, "the width of the quickstart's encoder"


def test_no_outputs_are_stored_and_the_documentation_names_it() -> None:
    assert not [cell for cell in CODE if cell["outputs"] or cell["execution_count"] is not None]
    assert NOTEBOOK["nbformat"] == 4
    root = Path(__file__).parents[2]
    for page in ("docs/install.md", "docs/start.md", "examples/README.md"):
        assert "repre.ipynb" in (root / page).read_text(encoding="utf-8"), page
