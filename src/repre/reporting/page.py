"""Writes the page: sections in order, style and script from this package, a policy that allows no network, a size limit."""

import base64
import hashlib
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

from repre.errors import RunError, UserError
from repre.reporting import comparison_sections as comparison_page
from repre.reporting import evaluation_section as results
from repre.reporting import image_sections as picture_sections
from repre.reporting import run_sections as sections
from repre.reporting.formatting import described
from repre.reporting.rendering import Html, data, tag
from repre.reporting.parts import Page, Section
from repre.reporting.image_encoding import LADDER
from repre.reporting.run_data import RunData, read_run
from repre.reporting.verdict_section import summary
from repre.reporting.verdict import verdict
from repre.utils.io import write_atomically

LIMIT = 10_000_000
"""Bytes of a page."""
SCRIPTS = ("charts.js", "pictures.js", "page.js")
PARTS = (
    picture_sections.reconstruction,
    picture_sections.levels,
    picture_sections.colors,
    picture_sections.similarity,
    picture_sections.neighbors,
    results.evaluations,
    sections.throughput,
    sections.data_problems,
    sections.configuration,
)


def write_report(run: Path, out: Path | None = None, *, comparisons: Sequence[Path] = (), limit: int = LIMIT) -> Path:
    """Writes the report of a run, finished or not, as one HTML file that opens offline.

    Args:
        run: the run's folder.
        out: the file; by default report.html in the run's folder.
        comparisons: folders of `repre compare` to show, besides those in or beside the run's folder that are about it.
        limit: bytes of the file; above it pictures lose quality, then go.

    Returns:
        The file that was written.

    Raises:
        UserError: the folder holds no run, or the file cannot be written there.
    """
    found = read_run(Path(run), comparisons=comparisons)
    return _write(Path(out or found.path / "report.html"), lambda page: report(found, page), limit=limit)


def write_comparison(runs: Sequence[Path], out: Path, *, comparisons: Sequence[Path] = (), limit: int = LIMIT) -> Path:
    """Writes the page of several runs side by side.

    Args:
        runs: their folders, two or more.
        out: the HTML file; a compare.json beside it is shown too.
        comparisons, limit: see `write_report`.

    Raises:
        UserError: a folder holds no run, there are fewer than two, or the file cannot be written there.
    """
    if len(runs) < 2:
        raise UserError(f"a comparison needs at least two runs, not {len(runs)}; for one there is repre report")
    beside = [Path(out).parent] if (Path(out).parent / "compare.json").is_file() else []
    found = [read_run(Path(run), comparisons=[*comparisons, *beside]) for run in runs]
    return _write(Path(out), lambda page: comparison_page.comparison(comparison_page.labeled(found), page), limit=limit)


def report(run: RunData, page: Page) -> tuple[str, str, list[Section]]:
    """Title, subtitle and sections of one run."""
    shown: list[Section | None] = [summary(run, verdict(run), page), sections.curves(run, page)]
    shown += [part(run, page) for part in PARTS]
    shown.append(sections.missing(page))
    return run.name, described(run), [one for one in shown if one is not None]


def _write(out: Path, build: Callable[[Page], tuple[str, str, list[Section]]], *, limit: int) -> Path:
    for quality in LADDER:
        page = Page(quality)
        title, subtitle, shown = build(page)
        content = render(title, subtitle, shown, page).encode("utf-8", "replace")
        if len(content) <= limit:
            break
    else:
        raise RunError(f"the report of {title} needs {len(content)} bytes even without pictures, above {limit}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, lambda file: file.write(content))
    except (OSError, RunError) as error:
        raise UserError(f"the report cannot be written to {out} ({error}); name another file with --out") from error
    return out


def render(title: str, subtitle: str, shown: Sequence[Section], page: Page) -> str:
    """The whole page as text."""
    style = asset("report.css")
    script = "\n".join(asset(name) for name in SCRIPTS)
    policy = (
        f"default-src 'none'; img-src data:; style-src '{digest(style)}'; script-src '{digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        None,
        tag("meta", {"charset": "utf-8"}),
        tag("meta", {"http-equiv": "Content-Security-Policy", "content": policy}),
        tag("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        tag("meta", {"name": "color-scheme", "content": "light dark"}),
        tag("meta", {"name": "referrer", "content": "no-referrer"}),
        tag("title", None, f"{title} · repre"),
        tag("style", None, Html(style)),
    )
    links = [
        tag("li", None, tag("a", {"href": f"#{one.identity}"}, one.identity.replace("-", " ").capitalize()))
        for one in shown
    ]
    body = tag(
        "body",
        None,
        tag("a", {"class": "skip", "href": "#main"}, "Skip to the report"),
        tag(
            "header",
            None,
            tag(
                "div",
                None,
                tag("p", {"class": "kicker"}, "repre · report"),
                tag("h1", None, title),
                tag("p", {"class": "subtitle"}, subtitle),
            ),
            tag("button", {"type": "button", "id": "theme", "aria-pressed": "false"}, "Dark"),
        ),
        tag("nav", {"aria-label": "Contents"}, tag("ol", None, links)),
        tag("main", {"id": "main", "tabindex": -1}, [one.body for one in shown]),
        tag("noscript", None, tag("p", None, "Charts and pictures need JavaScript, which this page carries itself.")),
        tag(
            "footer",
            None,
            tag("p", None, "Written by repre. This file is complete in itself and asks nothing of a network."),
        ),
        data("report-data", page.data()),
        tag("script", None, Html(script)),
    )
    return f"<!doctype html>\n{tag('html', {'lang': 'en'}, head, body)}\n"


def asset(name: str) -> str:
    """A file that lies in this package."""
    return (files("repre.reporting") / "assets" / name).read_text(encoding="utf-8")


def digest(text: str) -> str:
    """How a Content-Security-Policy names an inline style or script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
