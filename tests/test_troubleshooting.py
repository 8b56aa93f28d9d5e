"""Every message that docs/troubleshooting.md quotes is one that the package can print today."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.cli.messages import PLACE, trees

PAGE = Path(__file__).parents[1] / "docs/troubleshooting.md"
BLOCK = re.compile(r"^```text\n(.*?)^```", re.M | re.S)
LEFT_OUT = "..."
"""Stands in a quote for the beginning or the end of a message."""
FEWEST, SHARE = 15, 0.3
"""Characters of a quote that must be the package's own words, and their share; values such as paths do not count."""


def quotes() -> list[str]:
    """The messages of the page, one a line."""
    blocks = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    return [line for block in blocks for line in block.splitlines() if line.strip()]


@cache
def templates() -> tuple[str, ...]:
    """The lines of all texts of the package, with `PLACE` for the values of f-strings."""
    found = []
    for tree in trees().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else PLACE for part in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    lines = (line.strip() for text in found for line in text.split("\n"))
    return tuple(line for line in lines if len(line.replace(PLACE, "")) >= FEWEST)


def own_words(quote: str, template: str) -> int:
    """Characters of a template's own words in a quote; 0 if the template cannot give the quote."""
    text = quote.removeprefix(LEFT_OUT).removesuffix(LEFT_OUT).lstrip()
    wholes = [template]
    if quote.startswith(LEFT_OUT):  # the rest of the template, from these words or from a value on
        wholes = [whole[at:].lstrip() for whole in wholes for at in (*_ends(PLACE, whole), *_begins(text[:8], whole))]
    if quote.endswith(LEFT_OUT):
        cuts = (PLACE, text[-8:])
        wholes = [whole[:at] for whole in wholes for words in cuts for at in _ends(words, whole)]
    fitting = [whole for whole in wholes if re.fullmatch(".*?".join(map(re.escape, whole.split(PLACE))), text)]
    return max((len(whole.replace(PLACE, "")) for whole in fitting), default=0)


def _begins(words: str, text: str) -> Iterator[int]:
    """Where words begin in a text."""
    return (match.start() for match in re.finditer(re.escape(words), text))


def _ends(words: str, text: str) -> Iterator[int]:
    """Where words end in a text."""
    return (match.end() for match in re.finditer(re.escape(words), text))


@cache
def _words(text: str) -> frozenset[str]:
    return frozenset(text.replace(PLACE, " ").split())


def _likeness(quote: str, template: str) -> float:
    """Words that both have, as a share of the words that either has."""
    return len(_words(quote) & _words(template)) / len(_words(quote) | _words(template))


@pytest.mark.parametrize("quote", quotes())
def test_every_quoted_message_is_in_the_package(quote: str) -> None:
    enough = max(FEWEST, SHARE * len(quote))
    possible = [template for template in templates() if len(_words(quote) & _words(template)) >= 2]
    if not any(own_words(quote, template) >= enough for template in possible):
        nearest = max(templates(), key=lambda template: _likeness(quote, template))
        pytest.fail(f"no message of the package is like that; the nearest is: {nearest}")


def test_there_are_messages() -> None:
    assert len(quotes()) > 20


@pytest.mark.parametrize(
    ("quote", "words"),
    [
        ("8 images at once do not fit on cpu", 30),
        ("8 images at once do not ...", 23),
        ("8 images at once do not fit on ...", 30),
        ("... at once do not fit on cpu", 22),
        ("... at once do not ...", 15),
        ("8 images at once did not fit on cpu", 0),
        ("8 images at once do nothing ...", 0),
        ("8 images at once do not fit", 0),
    ],
)
def test_a_changed_word_is_noticed(quote: str, words: int) -> None:
    assert own_words(quote, f"{PLACE} images at once do not fit on {PLACE}") == words
