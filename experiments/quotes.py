"""Numbers of the evidence in other documents: each stands between two comments that name it, and is filled from one file.

    adds <!-- evidence:cpu/fixed/fashionscenes/moco-v3-vit/object-miou -->+5.4 points (...)<!-- /evidence --> to MoCo v3

`python -m experiments.tables` writes the file, docs/figures.json, and fills the documents.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from repre.errors import UserError

FIGURES = "figures.json"
"""File in the folder of the documentation: name -> text."""
MARKER = re.compile(r"(<!-- evidence:(\S+) -->)(.*?)(<!-- /evidence -->)", re.S)
AT_LINE_START = re.compile(r"^[ >*+-]*<!-- /?evidence\b", re.M)
COMMENT = re.compile(r"<!-- /?evidence\b.*?-->")


def fill(text: str, figures: Mapping[str, str], *, page: str) -> str:
    """Returns a document with today's text between its markers.

    Args:
        figures: name -> text.
        page: name of the document, for messages.

    Raises:
        UserError: a marker names no known number, is not closed, or begins a line, where Markdown takes the whole line for
            HTML.
    """
    if AT_LINE_START.search(text):
        raise UserError(
            f"{page} has a marker at the start of a line, where it ends the paragraph: put a word before it"
        )
    unknown = [name for _, name, _, _ in MARKER.findall(text) if name not in figures]
    if unknown:
        raise UserError(f"{page} quotes {unknown[0]}, which is not measured; {FIGURES} lists the names")
    if len(COMMENT.findall(text)) != 2 * len(MARKER.findall(text)):
        raise UserError(f"{page} has a marker that is not closed: write <!-- evidence:NAME --><!-- /evidence -->")
    return MARKER.sub(lambda match: f"{match[1]}{figures[match[2]]}{match[4]}", text)


def outside_markers(text: str) -> str:
    """Returns a document without its markers and what is between them."""
    return MARKER.sub("", text)


def quoting_pages(docs: Path) -> Iterable[Path]:
    """Yields the documents with markers: those below docs, and the README beside it."""
    for path in (docs.parent / "README.md", *sorted(docs.rglob("*.md"))):
        if path.is_file() and "<!-- evidence:" in path.read_text(encoding="utf-8"):
            yield path


def write_figures(docs: Path, figures: Mapping[str, str]) -> list[Path]:
    """Writes the file of numbers and fills the documents that quote them; returns the documents.

    Raises:
        UserError: a document quotes a number that is not there. Then nothing is written.
    """
    filled = {path: fill(path.read_text(encoding="utf-8"), figures, page=path.name) for path in quoting_pages(docs)}
    text = json.dumps(figures, indent=1, ensure_ascii=False) + "\n"
    for path, content in {docs / FIGURES: text, **filled}.items():
        path.write_text(content, encoding="utf-8")
    return list(filled)
