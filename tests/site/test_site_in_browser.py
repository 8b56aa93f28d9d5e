"""The built site in a headless Chromium, opened from the disk. Skipped without one (tests/reporting/browser.py)."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reporting import browser as chromium

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; it is part of repre[dev]")
pytestmark = pytest.mark.slow
PAGES = (
    "index.html",
    "config.html",
    "evidence.html",
    "performance.html",
    "data.html",
    "api/frameworks.html",
    "troubleshooting.html",
)
DESKTOP, PHONE = 1280, 390
CLIPPED = """() => [...document.querySelectorAll('.md-typeset table:not([class]), .md-typeset pre > code')].filter(box => {
  for (let frame = box; frame && !frame.matches('article'); frame = frame.parentElement) {
    if (['auto', 'scroll'].includes(getComputedStyle(frame).overflowX)) return false
  }
  return box.getBoundingClientRect().right > document.documentElement.clientWidth
}).map(box => box.innerText.slice(0, 80))"""
BROKEN = """() => [...document.querySelectorAll('.md-typeset code .name')]
  .filter(name => name.getClientRects().length > 1).map(name => name.innerText)"""


@pytest.fixture(scope="module")
def browser() -> Iterator["sync_api.Browser"]:
    with chromium.started() as running:
        if running is None:
            pytest.skip(f"no browser: none of {', '.join(chromium.NAMES)} is installed, and none could be downloaded")
        yield running


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_nothing_is_clipped_and_no_name_breaks(browser: "sync_api.Browser", site: Path, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    for name in PAGES:
        page.goto((site / name).as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} is wider than the window"
        assert page.evaluate(CLIPPED) == [], name
        assert page.evaluate(BROKEN) == [], name
    assert page.locator(".md-typeset code .name").count() > 0
    page.close()


def test_the_search_works_from_the_disk(browser: "sync_api.Browser", site: Path) -> None:
    page = browser.new_page(viewport={"width": DESKTOP, "height": 900})
    failed: list[str] = []
    page.on("requestfailed", lambda request: failed.append(request.url))
    page.goto((site / "index.html").as_uri())
    page.locator(".md-search__input").fill("gradient cache")
    found = page.locator(".md-search-result__link")
    found.first.wait_for(timeout=30_000)
    assert any("performance.html" in str(link.get_attribute("href")) for link in found.all())
    assert failed == []
    page.close()
