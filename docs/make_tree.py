"""Writes the tree in docs/architecture.md: every file of the package with the first sentence of its docstring.

    python docs/make_tree.py

A test compares the page with what this gives.
"""

import ast
import re
from pathlib import Path

PAGE = Path(__file__).with_name("architecture.md")
ROOT = Path(__file__).parents[1] / "src" / "repre"
BEGIN, END = "<!-- tree: python docs/make_tree.py -->\n", "<!-- end of the tree -->\n"
COLUMN = 34


def tree() -> str:
    """The package as an indented list in a code block."""
    return "```\n" + "\n".join(["src/repre/", *_folder(ROOT, depth=1)]) + "\n```\n"


def _folder(folder: Path, *, depth: int) -> list[str]:
    """Files of a folder, then its folders."""
    lines = []
    for path in sorted(folder.glob("*.py")):
        if path.name not in ("__init__.py", "__main__.py"):
            lines.append(_line(path.name, path, depth=depth))
    for inner in sorted(path for path in folder.iterdir() if (path / "__init__.py").is_file()):
        lines.append(_line(f"{inner.name}/", inner / "__init__.py", depth=depth))
        lines += _folder(inner, depth=depth + 1)
    return lines


def _line(name: str, path: Path, *, depth: int) -> str:
    return f"{'  ' * depth + name:{COLUMN}}{first_sentence(path)}"


def first_sentence(path: Path) -> str:
    """The first sentence of a module's docstring, without its period."""
    text = " ".join((ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0].split())
    text = re.split(r"(?<!et al)\. (?=[A-Z`])", text)[0]
    for end in ("; ", ": "):
        if len(text) > 110:
            text = text.split(end)[0]
    return text.removesuffix(".")


def page() -> str:
    """The page with a fresh tree."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return before + BEGIN + tree() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
