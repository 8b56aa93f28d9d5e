"""The built site: links, images and tables are there, and nothing is loaded from elsewhere."""

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

import repre
from tests.site.html_page import HtmlPage
from tests.site.markdown_pages import ROOT, outside_fences, tables

pytestmark = pytest.mark.slow
MARKS = (
    re.compile(r"\|"),  # of a table
    re.compile(r"^ *(?:[-*] |1\. |#+ )", re.M),  # of a list or heading without an empty line before it
    re.compile(r"```|\*\*|^:::", re.M),  # of code, bold text and the Python reference
)
"""Markdown that is left where mkdocs did not understand it."""


def test_no_markdown_is_left(pages: dict[str, HtmlPage]) -> None:
    for name, page in pages.items():
        for tag, text in page.text:
            for mark in MARKS:
                assert tag not in ("p", "li", "td", "em", "dd") or not mark.search(text), f"{name}: {text!r}"


def test_links_anchors_and_images_exist(site: Path, pages: dict[str, HtmlPage]) -> None:
    checked = 0
    for name, page in pages.items():
        for link in [*page.links, *page.resources]:
            target = urlsplit(link)
            if target.scheme or link.startswith("//"):
                continue
            path = (page.path.parent / unquote(target.path)).resolve() if target.path else page.path
            path = path / "index.html" if path.is_dir() else path
            assert path.is_file(), f"{name}: {link}"
            if target.fragment and path.suffix == ".html":
                anchors = pages[path.relative_to(site.resolve()).as_posix()].ids
                assert unquote(target.fragment) in anchors, f"{name}: {link}"
            checked += 1
    assert checked > 1000


def test_nothing_is_loaded_from_elsewhere(pages: dict[str, HtmlPage]) -> None:
    for name, page in pages.items():
        assert page.resources, name
        assert not [resource for resource in page.resources if re.match(r"(?:https?:)?//", resource)], name


def test_every_table_is_built(pages: dict[str, HtmlPage]) -> None:
    for path in (ROOT / "docs").rglob("*.md"):
        lines, _ = outside_fences(path.read_text(encoding="utf-8"))
        name = path.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
        assert pages[name].tables >= len(tables(lines)), name


def test_the_changelog_is_the_one_of_the_repository(pages: dict[str, HtmlPage]) -> None:
    assert (ROOT / "docs/changelog.md").stat().st_size < 100, "the site includes CHANGELOG.md; a copy would age"
    assert {"changelog", "unreleased"} <= pages["changelog.html"].ids


def test_every_public_name_is_in_the_python_reference(pages: dict[str, HtmlPage]) -> None:
    documented = set().union(*(page.ids for name, page in pages.items() if name.startswith("api/")))
    assert {f"repre.{name}" for name in repre.__all__} <= documented
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert config["use_directory_urls"] is False
