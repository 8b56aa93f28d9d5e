"""Builds the sections with curves, time, data and configuration, and the list of what was left out."""

from collections.abc import Sequence
from itertools import groupby

from repre.reporting.charts import comparison_charts, run_charts
from repre.reporting.formatting import flatten
from repre.reporting.rendering import PageData, Section, section
from repre.reporting.run_data import MAX_UNREADABLE, RunData, finite_number
from repre.reporting.verdict import data_wait


def curves_section(runs: Sequence[RunData], page: PageData) -> Section | None:
    """Draws every metric; those about time have a section of their own on the page of one run."""
    if len(runs) == 1:
        charts = [chart for chart in run_charts(runs[0], max_points=page.quality.max_points) if chart.group != "Time"]
    else:
        charts = comparison_charts(runs, max_points=max(100, page.quality.max_points // len(runs)))
    if not charts:
        page.left_out.append("Curves: metrics.jsonl has no metrics.")
        return None
    lead = (
        "Lines are logged steps, points are validations on fixed images. Point at a chart, or focus it and use the arrow "
        "keys, to read values."
    )
    return section("curves", "Curves", lead, groups=page.add_charts(charts))


def time_section(run: RunData, page: PageData) -> Section | None:
    """Shows where the time went, and the throughput."""
    charts = [chart for chart in run_charts(run, max_points=page.quality.max_points) if chart.group == "Time"]
    phases = _seconds_by_phase(run)
    if not charts and not phases:
        page.left_out.append("Throughput and time: nothing about it was logged.")
        return None
    lead = "Where the time went, and how many images per second were trained on."
    return section("time", "Throughput and time", lead, phases=phases, groups=page.add_charts(charts))


def _seconds_by_phase(run: RunData) -> dict[str, float]:
    """Gives the seconds of each phase; empty while the run is not finished.

    The summary counts from the first step to the last: without the first and the last validation, with all others.
    """
    counted = finite_number((run.summary or {}).get("seconds"))
    if not counted:
        return {}
    validation, probes = (run.series(name, validations=True)[1] for name in ("validation_seconds", "probe_seconds"))
    waiting = (data_wait(run) or 0.0) * counted
    training = counted - waiting - sum(validation[1:-1]) - sum(probes[1:-1])
    phases = {"training": training, "waiting for data": waiting, "validation": sum(validation), "probes": sum(probes)}
    return {name: seconds for name, seconds in phases.items() if seconds > 0}


def data_section(run: RunData, page: PageData) -> Section:
    """Names the data, and the files that could not be read."""
    distinct = run.series("distinct_images", validations=True)[1]
    return section(
        "data",
        "Data",
        source=run.config.get("data", "unknown"),
        distinct_share=distinct[-1] if distinct else None,
        maps=sorted(file.relative_to(run.path).as_posix() for file in run.path.glob("*.map.html")),
        unreadable=[line.rpartition("\t")[::2] if "\t" in line else (line, "") for line in run.unreadable],
        unreadable_count=run.unreadable_count,
        max_unreadable=MAX_UNREADABLE,
        notes=run.notes,
    )


def configuration_section(run: RunData, page: PageData) -> Section:
    """Lists every setting by part with a search field, then versions and machine."""
    top_level = {key for key, value in run.config.items() if not isinstance(value, dict)}
    settings = sorted(flatten(run.config).items(), key=lambda setting: setting[0] not in top_level)
    parts = groupby(settings, key=lambda setting: "run" if setting[0] in top_level else setting[0].split(".")[0])
    return section(
        "configuration",
        "Configuration",
        "The settings of this run, as in config.yaml.",
        parts=[(part, list(members)) for part, members in parts],
        environment=flatten(run.environment),
    )


def left_out_section(page: PageData) -> Section | None:
    """Lists what the page does not show, and why."""
    if page.quality.reduction:
        page.left_out.append(f"To stay within the size limit of the page, {page.quality.reduction}.")
    return section("left-out", "Left out", reasons=page.left_out) if page.left_out else None
