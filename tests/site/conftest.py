"""The site, built once for all tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.site.html_page import HtmlPage
from tests.site.markdown_pages import ROOT


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site. `--strict` makes a warning an error: a dead link, a page outside the navigation."""
    pytest.importorskip("mkdocs", reason="mkdocs is not installed; it is part of repre[dev]")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="session")
def pages(site: Path) -> dict[str, HtmlPage]:
    """Every built page, by its path in the site; without 404.html, which only a server shows."""
    files = {path.relative_to(site).as_posix(): path for path in site.rglob("*.html")}
    return {name: HtmlPage(path) for name, path in files.items() if name != "404.html"}
