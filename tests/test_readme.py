"""The README's tree has one line for every file, and its commands exist."""

import re
from pathlib import Path

from repre.cli.main import COMMANDS
from repre.recipes import RECIPES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def files_in_tree() -> set[str]:
    tree = README[README.index("src/repre/\n") :].split("```")[0]
    folder, files = "", set()
    for line in tree.splitlines()[1:]:
        indent, name = len(line) - len(line.lstrip()), line.split()[0]
        if indent == 0:
            break
        if indent == 2:
            folder = name if name.endswith("/") else ""
        if name.endswith(".py"):
            files.add(folder + name if indent == 4 else name)
    return files


def test_the_tree_names_every_file_once() -> None:
    source = ROOT / "src" / "repre"
    have = {p.relative_to(source).as_posix() for p in source.rglob("*.py")}
    assert files_in_tree() == {name for name in have if not name.endswith("/__init__.py")}


def test_every_command_is_shown_and_exists() -> None:
    assert set(re.findall(r"\brepre ([a-z]+)[ `|]", README)) == set(COMMANDS)


def test_named_recipes_exist() -> None:
    named = set(re.findall(r"\b(?:vit|swin)-(?:tiny|small|base)-[a-z0-9-]+", README))
    assert named
    assert named <= set(RECIPES), named - set(RECIPES)
