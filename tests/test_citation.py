"""CITATION.cff can be read, and cites this version and the paper."""

from pathlib import Path
from typing import Any

import pytest
import yaml

import repre

ROOT = Path(__file__).parents[1]


@pytest.fixture
def citation() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def test_it_has_what_the_format_requires(citation: dict[str, Any]) -> None:
    assert citation["cff-version"] == "1.2.0"
    assert {"authors", "cff-version", "message", "title"} <= set(citation)
    for author in [*citation["authors"], *(author for one in citation["references"] for author in one["authors"])]:
        assert set(author) in ({"name"}, {"given-names", "family-names"})


def test_it_is_about_this_version(citation: dict[str, Any]) -> None:
    assert citation["version"] == repre.__version__
    assert citation["license"] in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_it_cites_the_paper(citation: dict[str, Any]) -> None:
    (paper,) = citation["references"]
    assert {"type", "title", "authors", "conference", "year", "doi"} <= set(paper)
    assert [author["family-names"] for author in paper["authors"]] == ["Wang", "Liang", "Li", "Zhang", "Ouyang", "Shao"]
    assert paper["url"].rpartition("/")[2] in (ROOT / "README.md").read_text(encoding="utf-8")
