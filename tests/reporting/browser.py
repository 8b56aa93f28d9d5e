"""Finds the Chromium of the browser tests: the system's, playwright's, or a packaged one that `make test` downloads.

    python -m tests.reporting.browser     downloads one if there is none; if it cannot, it says so and exits with 0

It tries two sources, each for a bounded time: npm's @sparticuz/chromium (Linux on x86-64), which brings the libraries and
fonts that Chromium needs, so that nothing has to be installed as root; then playwright's own build, which needs them from
the system. Both stay in the virtual environment or in playwright's cache, never in the sources.
"""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from playwright.sync_api import Browser as Started

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PACKAGE = "@sparticuz/chromium@147.0.0"
FOLDER = Path(sys.prefix) / "chromium"
"""Folder of the packaged Chromium, inside the virtual environment, so that `make clean` removes it."""
TIMEOUT_S = 120
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
FONTS = f"""<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>/usr/share/fonts</dir><dir>{FOLDER / "fonts"}</dir><cachedir>{FOLDER / "cache"}</cachedir>
<alias><family>monospace</family><prefer><family>DejaVu Sans Mono</family></prefer></alias></fontconfig>
"""
UNPACK = "import('@sparticuz/chromium').then((module) => module.default.executablePath())"


class Browser(NamedTuple):
    """An installed Chromium."""

    program: str | None
    """None for playwright's own."""
    environment: Mapping[str, str]
    """Environment variables that it needs."""


def find() -> Browser | None:
    """Gives an installed Chromium, without downloading anything."""
    installed = next((path for name in NAMES if (path := shutil.which(name))), None)
    if installed is not None:
        return Browser(installed, {})
    if (FOLDER / "chromium").is_file():
        environment = {"LD_LIBRARY_PATH": str(FOLDER / "al2023" / "lib"), "FONTCONFIG_FILE": str(FOLDER / "fonts.conf")}
        return Browser(str(FOLDER / "chromium"), environment)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        return Browser(None, {}) if Path(playwright.chromium.executable_path).is_file() else None


@contextmanager
def started() -> "Iterator[Started | None]":
    """An installed Chromium that runs headless until the end of the block; None without one."""
    installed = find()
    if installed is None:
        yield None
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=installed.program, args=QUIET, env={**os.environ, **installed.environment}
        )
        yield browser
        browser.close()


def download() -> None:
    """Tries the sources in turn; leaves no partial folder."""
    in_environment = sys.prefix != sys.base_prefix
    if in_environment and sys.platform == "linux" and platform.machine() == "x86_64" and shutil.which("npm"):
        partial = FOLDER.with_name("chromium.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        install = ("npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(partial), PACKAGE)
        with_libraries = {"TMPDIR": str(partial), "AWS_LAMBDA_JS_RUNTIME": "nodejs22.x"}  # makes it unpack them too
        if _run(*install) and _run("node", "--eval", UNPACK, folder=partial, environment=with_libraries):
            shutil.rmtree(partial / "node_modules")
            (partial / "fonts.conf").write_text(FONTS)
            partial.rename(FOLDER)
            return
        shutil.rmtree(partial, ignore_errors=True)
    _run(sys.executable, "-m", "playwright", "install", "--only-shell", "chromium")


def _run(*command: str, folder: Path | None = None, environment: Mapping[str, str] | None = None) -> bool:
    """Whether a command succeeds in time."""
    try:
        result = subprocess.run(
            command, cwd=folder, env={**os.environ, **(environment or {})}, timeout=TIMEOUT_S, capture_output=True
        )
    except subprocess.TimeoutExpired:
        return False
    return result.returncode == 0


if __name__ == "__main__":
    if find() is None:
        download()
        if find() is None:
            print("no browser could be downloaded; tests/reporting/test_browser.py will be skipped")
