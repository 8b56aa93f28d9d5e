"""The README names every command and only recipes that exist."""

import re
from pathlib import Path

from repre.cli.main import MODULES
from repre.recipes import RECIPES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_command_is_shown_and_exists() -> None:
    assert set(re.findall(r"\brepre ([a-z]+)[ `|]", README)) == set(MODULES)


def test_named_recipes_exist() -> None:
    named = set(re.findall(r"\b(?:vit|swin)-(?:tiny|small|base)-[a-z0-9-]+", README))
    assert named
    assert named <= set(RECIPES), named - set(RECIPES)
