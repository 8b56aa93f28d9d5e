"""The Chromium of the browser test: the system's, playwright's, or a packaged one that `make test` fetches.

    python -m tests.reporting.browser     fetches one where there is none; where it cannot, says so in a line and ends well

Two sources are tried, each for a bounded time. npm's @sparticuz/chromium (Linux on x86-64) brings the libraries and fonts
that Chromium needs, so nothing has to be installed by root; playwright's own build wants them from the system. Both are
kept in the virtual environment or in playwright's cache, never in the sources.
"""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PACKAGE = "@sparticuz/chromium@147.0.0"
FOLDER = Path(sys.prefix) / "chromium"
"""Where the packaged one is unpacked; below the virtual environment, so that `make clean` removes it."""
SECONDS = 120
FONTS = f"""<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>/usr/share/fonts</dir><dir>{FOLDER / "fonts"}</dir><cachedir>{FOLDER / "cache"}</cachedir></fontconfig>
"""
UNPACK = "import('@sparticuz/chromium').then((found) => found.default.executablePath())"


class Browser(NamedTuple):
    """A Chromium that can be started: its program, None for playwright's own, and what its environment needs."""

    program: str | None
    environment: Mapping[str, str]


def find() -> Browser | None:
    """What is at hand, without fetching anything."""
    installed = next((path for name in NAMES if (path := shutil.which(name))), None)
    if installed is not None:
        return Browser(installed, {})
    if (FOLDER / "chromium").is_file():
        own = {"LD_LIBRARY_PATH": str(FOLDER / "al2023" / "lib"), "FONTCONFIG_FILE": str(FOLDER / "fonts.conf")}
        return Browser(str(FOLDER / "chromium"), own)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        return Browser(None, {}) if Path(playwright.chromium.executable_path).is_file() else None


def fetch() -> None:
    """Tries the sources in turn; leaves nothing half done."""
    inside = sys.prefix != sys.base_prefix
    if inside and sys.platform == "linux" and platform.machine() == "x86_64" and shutil.which("npm"):
        beside = FOLDER.with_name("chromium.partial")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        words = ("npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(beside), PACKAGE)
        with_libraries = {"TMPDIR": str(beside), "AWS_LAMBDA_JS_RUNTIME": "nodejs22.x"}  # this unpacks them, too
        if _run(*words) and _run("node", "--eval", UNPACK, folder=beside, environment=with_libraries):
            shutil.rmtree(beside / "node_modules")
            (beside / "fonts.conf").write_text(FONTS)
            beside.rename(FOLDER)
            return
        shutil.rmtree(beside, ignore_errors=True)
    _run(sys.executable, "-m", "playwright", "install", "--only-shell", "chromium")


def _run(*words: str, folder: Path | None = None, environment: Mapping[str, str] | None = None) -> bool:
    try:
        done = subprocess.run(
            words, cwd=folder, env={**os.environ, **(environment or {})}, timeout=SECONDS, capture_output=True
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


if __name__ == "__main__":
    if find() is None:
        fetch()
        if find() is None:
            print("no browser could be fetched, so tests/reporting/test_browser.py will be skipped")
