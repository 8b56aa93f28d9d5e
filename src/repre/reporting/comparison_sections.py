"""Builds the sections that only the page of several runs has: the runs at a glance, and the settings that differ."""

from collections.abc import Sequence
from dataclasses import replace

from repre.reporting.charts import NOT_DRAWN
from repre.reporting.findings import PROBE
from repre.reporting.formatting import describe_run, duration, flatten, format_number, percent
from repre.reporting.rendering import PageData, Section, section
from repre.reporting.run_data import RunData
from repre.reporting.verdict import data_wait, judge

LOSSES = ("loss", "contrastive", "pixel")
KEY_METRICS = ("rankme", "embedding_std", "correspondence", "psnr", "ssim", "gradient_ratio")
"""Validation metrics in the table that is always open; labeled probes are in it too."""


def with_distinct_names(runs: Sequence[RunData]) -> list[RunData]:
    """Names every run after its folder, with as much of the path before it as tells the runs apart."""
    for depth in range(1, 8):
        names = ["/".join(run.path.resolve().parts[-depth:]) for run in runs]
        if len(set(names)) == len(names):
            break
    else:
        names = [f"{run.name} ({number})" for number, run in enumerate(runs, start=1)]
    return [replace(run, name=name) for run, name in zip(runs, names)]


def glance_section(runs: Sequence[RunData], page: PageData) -> Section:
    """Shows verdicts and key metrics with one column per run."""
    validated = dict.fromkeys(name for run in runs for row in run.validations for name in row if name not in NOT_DRAWN)
    key = [name for name in validated if name in KEY_METRICS or PROBE.fullmatch(name)]
    summaries = [run.summary or {} for run in runs]
    losses = [
        [name, *(_last(run, name) for run in runs)] for name in LOSSES if any(run.series(name)[1] for run in runs)
    ]
    totals = [
        ["images per second", *(format_number(summary.get("images_per_s"), 3) for summary in summaries)],
        ["waiting for data", *(percent(data_wait(run)) for run in runs)],
        ["time", *(duration(summary.get("seconds")) for summary in summaries)],
        ["alarms", *(str(len(run.alarms)) for run in runs)],
    ]
    return section(
        "glance",
        "At a glance",
        "Losses are the last logged ones; other metrics are those of the first and the last validation.",
        runs=[(run.name, judge(run), describe_run(run)) for run in runs],
        rows=losses + [_first_and_last(runs, name) for name in key] + totals,
        more_rows=[_first_and_last(runs, name) for name in validated if name not in key],
    )


def _last(run: RunData, name: str) -> str:
    values = run.series(name)[1]
    return format_number(values[-1]) if values else "–"


def _first_and_last(runs: Sequence[RunData], name: str) -> list[str]:
    """Gives a row of the table: the metric's name, then its first and last value in every run."""
    columns = [run.series(name, validations=True)[1] for run in runs]
    return [name, *(f"{format_number(v[0], 3)} → {format_number(v[-1], 3)}" if v else "–" for v in columns)]


def settings_section(runs: Sequence[RunData], page: PageData) -> Section:
    """Shows the settings that differ between the runs."""
    configs = [flatten(run.config) for run in runs]
    names = list(dict.fromkeys(name for config in configs for name in config))
    rows = [(name, [config.get(name, "not set") for config in configs]) for name in names]
    differing = [(name, values) for name, values in rows if len(set(values)) > 1]
    lead = f"{len(differing)} of {len(names)} settings differ."
    return section("settings", "Settings that differ", lead, names=[run.name for run in runs], settings=differing)
