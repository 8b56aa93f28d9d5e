"""`import repre` offers every public name and loads no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import repre
from repre import api


def test_every_public_name_is_found_and_listed() -> None:
    for name in set(repre.__all__) - {"RECIPES"}:
        assert getattr(repre, name).__name__ == name
    assert repre.RECIPES
    assert set(repre.__all__) < set(dir(repre))


def test_type_checkers_see_every_public_name() -> None:
    tree = ast.parse(Path(repre.__file__).read_text(encoding="utf-8"))
    imported = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("repre")
        for alias in node.names
    }
    assert imported == repre._MODULES
    assert sorted(imported) == sorted(repre.__all__)


def test_every_command_is_public() -> None:
    assert set(api.__all__) <= set(repre.__all__)
    assert repre.evaluate is api.evaluate


def test_importing_the_package_or_its_functions_loads_no_torch() -> None:
    code = "import repre, sys; repre.UserError, repre.report, repre.pretrain; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_names_are_attribute_errors() -> None:
    assert not hasattr(repre, "nothing")
