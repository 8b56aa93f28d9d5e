"""The architecture page names every file of the package, and the files that it sends a reader to exist."""

import re
from pathlib import Path

from tests.docs_script import script

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "repre"


def test_the_tree_is_that_of_the_package() -> None:
    module = script("make_tree")
    assert module.page() == module.PAGE.read_text(encoding="utf-8"), "python docs/make_tree.py"
    lines = module.tree().splitlines()
    files = [path for path in SOURCE.rglob("*.py") if path.name not in ("__init__.py", "__main__.py")]
    for path in files:
        assert sum(line.split()[0] == path.name for line in lines if line.strip()) == 1, path


def test_every_file_says_in_a_line_what_it_holds() -> None:
    module = script("make_tree")
    for path in SOURCE.rglob("*.py"):
        if path.name != "__main__.py":
            assert 10 < len(module.first_sentence(path)) < 160, path


def test_every_file_that_the_page_names_exists() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    for name in re.findall(r"`((?:\w+/)+\w+\.py)`", text):
        assert (SOURCE / name).is_file() or (ROOT / name).is_file(), name
