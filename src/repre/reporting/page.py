"""Writes the page as one file: style and script inside, no access to the network, a limit on its size."""

import base64
import hashlib
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

from markupsafe import Markup

from repre.errors import RunError, UserError
from repre.reporting.comparison_sections import glance_section, settings_section, with_distinct_names
from repre.reporting.evaluation_section import evaluation_section
from repre.reporting.formatting import describe_run
from repre.reporting.image_encoding import QUALITIES
from repre.reporting.image_sections import (
    colors_section,
    levels_section,
    neighbors_section,
    reconstruction_section,
    similarity_section,
)
from repre.reporting.rendering import PageData, Section, render
from repre.reporting.run_data import RunData, read_run
from repre.reporting.run_sections import (
    configuration_section,
    curves_section,
    data_section,
    left_out_section,
    time_section,
)
from repre.reporting.verdict_section import verdict_section
from repre.utils.io import write_atomically

MAX_BYTES = 10_000_000
SCRIPTS = ("charts.js", "images.js", "page.js")


def write_report(
    run: Path, out: Path | None = None, *, comparisons: Sequence[Path] = (), max_bytes: int = MAX_BYTES
) -> Path:
    """Writes the report of a run, finished or not, as one HTML file that opens offline.

    Args:
        run: the run's folder.
        out: the file; by default report.html in the run's folder.
        comparisons: folders of `repre compare` to show, besides those in or next to the run's folder that are about it.
        max_bytes: size limit of the file; above it images lose quality, then are left out.

    Returns:
        The path of the file.

    Raises:
        UserError: the folder is no run, or the file cannot be written.
        RunError: even without images the page is larger than `max_bytes`.
    """
    data = read_run(Path(run), comparisons=comparisons)
    return _write(Path(out or data.path / "report.html"), [data], _run_sections, max_bytes=max_bytes)


def write_comparison(
    runs: Sequence[Path], out: Path, *, comparisons: Sequence[Path] = (), max_bytes: int = MAX_BYTES
) -> Path:
    """Writes one page of several runs side by side.

    Args:
        runs: their folders, two or more.
        out: the HTML file; a compare.json in the same folder is shown too.
        comparisons: see `write_report`.
        max_bytes: see `write_report`.

    Returns:
        The path of the file.

    Raises:
        UserError: there are fewer than two runs, a folder is no run, or the file cannot be written.
        RunError: even without images the page is larger than `max_bytes`.
    """
    if len(runs) < 2:
        raise UserError(f"a comparison needs at least two runs, not {len(runs)}; use repre report RUN for one")
    folder = Path(out).parent
    all_comparisons = [*comparisons, *([folder] if (folder / "compare.json").is_file() else [])]
    data = with_distinct_names([read_run(Path(run), comparisons=all_comparisons) for run in runs])
    return _write(Path(out), data, _comparison_sections, max_bytes=max_bytes)


def _run_sections(runs: Sequence[RunData], page: PageData) -> list[Section | None]:
    (run,) = runs
    return [
        verdict_section(run, page),
        curves_section(runs, page),
        reconstruction_section(runs, page),
        levels_section(run, page),
        colors_section(runs, page),
        similarity_section(runs, page),
        neighbors_section(run, page),
        evaluation_section(runs, page),
        time_section(run, page),
        data_section(run, page),
        configuration_section(run, page),
        left_out_section(page),
    ]


def _comparison_sections(runs: Sequence[RunData], page: PageData) -> list[Section | None]:
    return [
        glance_section(runs, page),
        settings_section(runs, page),
        curves_section(runs, page),
        reconstruction_section(runs, page),
        colors_section(runs, page),
        similarity_section(runs, page),
        evaluation_section(runs, page),
        left_out_section(page),
    ]


def _write(
    out: Path,
    runs: Sequence[RunData],
    build: Callable[[Sequence[RunData], PageData], list[Section | None]],
    *,
    max_bytes: int,
) -> Path:
    """Renders the page at falling quality until it fits, and writes it."""
    for quality in QUALITIES:
        page = PageData(quality)
        sections = [section for section in build(runs, page) if section is not None]
        content = _render_page(runs, sections, page).encode("utf-8", "replace")
        if len(content) <= max_bytes:
            break
    else:
        raise RunError(f"the page needs {len(content)} bytes even without images, more than {max_bytes}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, lambda file: file.write(content))
    except (OSError, RunError) as error:
        raise UserError(f"cannot write the report to {out} ({error}); name another file with --out") from error
    return out


def _render_page(runs: Sequence[RunData], sections: Sequence[Section], page: PageData) -> str:
    style, script = _asset("report.css"), "\n".join(_asset(name) for name in SCRIPTS)
    if len(runs) == 1:
        title, subtitle = runs[0].name, describe_run(runs[0])
    else:
        title = " · ".join(run.name for run in runs) if len(runs) < 4 else f"{len(runs)} runs"
        subtitle = "Several runs side by side"
    return render(
        "page.html",
        title=title,
        subtitle=subtitle,
        sections=sections,
        data=page.as_json(),
        style=Markup(style),
        style_hash=_csp_hash(style),
        script=Markup(script),
        script_hash=_csp_hash(script),
    )


def _asset(name: str) -> str:
    return (files("repre.reporting") / "assets" / name).read_text(encoding="utf-8")


def _csp_hash(text: str) -> str:
    """Gives the name of an inline style or script in a Content-Security-Policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
