"""The examples of the Python reference: those without data run, the others give functions arguments that they have."""

import ast
import inspect
import re
from pathlib import Path

import pytest
import torch

import repre
from tests.site.markdown_pages import ROOT

PAGES = sorted((ROOT / "docs/api").glob("*.md"))


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_functions_take_the_arguments_of_the_examples(page: Path) -> None:
    calls = 0
    for block in blocks(page):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "repre":
                assert hasattr(repre, node.attr), node.attr
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("repre."):
                keywords = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
                inspect.signature(getattr(repre, ast.unparse(node.func)[6:])).bind(*node.args, **keywords)
                calls += 1
    assert calls or page.stem == "losses"


@pytest.mark.parametrize("name", ["model", "frameworks", "losses"])
def test_examples_without_data_run(name: str) -> None:
    names: dict[str, object] = {}
    for block in blocks(ROOT / f"docs/api/{name}.md"):
        exec(block, names)
    for loss in {"losses", "loss"} & set(names):
        total = getattr(names[loss], "total", names[loss])
        assert isinstance(total, torch.Tensor)
        assert total.isfinite()


def test_every_public_function_describes_its_arguments() -> None:
    for name in repre.api.__all__:
        function = getattr(repre, name)
        if inspect.isclass(function):
            continue
        described = re.split(r"\n\s*Args:\n", inspect.getdoc(function) or "")[-1]
        for argument in inspect.signature(function).parameters:
            assert re.search(rf"^    (?:[\w, ]+, )?{argument}(?:, [\w, ]+)?: ", described, re.M), f"{name}: {argument}"
