"""Documents quote numbers of the evidence from one file, and README says nothing about the branch's effect beside them."""

import json
import re
from pathlib import Path

import pytest
from experiments.quotes import FIGURES, MARKER, fill, outside_markers, quoting_pages, write_figures
from experiments.tables import DOCS

from repre.errors import UserError

STORED = json.loads((DOCS / FIGURES).read_text(encoding="utf-8"))
EFFECT = re.compile(
    r"\d[\d.]* (?:points|mIoU|k-NN)|(?:mIoU|k-NN|AP|by|adds|gains?|costs?)\W+[+-−]?\d+\.\d|(?<![\w.-])[+−-]\d+\.\d"
)
"""A number beside a metric or points, or a signed decimal."""


def test_every_quote_is_the_stored_number() -> None:
    pages = list(quoting_pages(DOCS))
    assert {"README.md", "index.md", "small-data.md"} <= {page.name for page in pages}
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert fill(text, STORED, page=page.name) == text, f"{page.name}: run python -m experiments.tables"


def test_readme_and_front_page_quote_every_number_about_the_branch() -> None:
    for page in (DOCS.parent / "README.md", DOCS / "index.md"):
        text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.S)
        assert MARKER.search(text)
        assert not EFFECT.findall(outside_markers(text)), page.name
        assert EFFECT.findall(re.sub(r"<!--.*?-->", "", text))  # the rule sees what stands between the markers


@pytest.mark.parametrize(
    "text", ["adds 5.4 points", "mIoU +3.1", "k-NN by -0.6", "it costs 4.1 points", "is −0.4 here"]
)
def test_the_rule_sees_usual_ways_to_write_a_number(text: str) -> None:
    assert EFFECT.search(text)


def test_pages_are_filled_from_one_file(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    (docs / "sub").mkdir(parents=True)
    (tmp_path / "README.md").write_text("It adds <!-- evidence:a/b -->old\ntext<!-- /evidence --> here.\n")
    (docs / "sub" / "page.md").write_text(
        "By <!-- evidence:c --><!-- /evidence -->, <!-- evidence:a/b --><!-- /evidence -->"
    )
    (docs / "plain.md").write_text("no quote")
    pages = write_figures(docs, {"a/b": "+1.0 points", "c": "two"})
    assert {page.name for page in pages} == {"README.md", "page.md"}
    assert (tmp_path / "README.md").read_text() == "It adds <!-- evidence:a/b -->+1.0 points<!-- /evidence --> here.\n"
    assert "-->two<!--" in (docs / "sub" / "page.md").read_text()
    assert json.loads((docs / FIGURES).read_text())["c"] == "two"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x <!-- evidence:typo -->1<!-- /evidence -->", "page.md quotes typo, which is not measured"),
        ("x <!-- evidence:a -->1", "a marker that is not closed"),
        ("x <!-- evidence:a -->1 <!-- evidence:a -->2<!-- /evidence -->", "a marker that is not closed"),
        ("- <!-- evidence:a -->1<!-- /evidence -->", "at the start of a line"),
    ],
)
def test_a_wrong_marker_is_refused_and_nothing_is_written(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.md").write_text(text)
    with pytest.raises(UserError, match=message):
        write_figures(tmp_path / "docs", {"a": "1"})
    assert not (tmp_path / "docs" / FIGURES).exists()
