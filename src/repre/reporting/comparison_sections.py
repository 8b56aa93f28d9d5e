"""Builds the sections that only the page of several runs has: the runs at a glance, and the settings that differ."""

from collections.abc import Sequence
from dataclasses import replace

from repre.reporting.charts import NOT_DRAWN
from repre.reporting.findings import PROBE
from repre.reporting.formatting import describe_run, duration, flatten, format_number, percent
from repre.reporting.leader import differing_settings, find_leader
from repre.reporting.objectives import alike
from repre.reporting.rendering import PageData, Section, section
from repre.reporting.run_data import RunData
from repre.reporting.titles import metric_title, setting_title, write_metric
from repre.reporting.verdict import data_wait, judge

LOSSES = ("loss", "contrastive", "pixel")
KEY_METRICS = ("rankme", "embedding_std", "correspondence", "psnr", "ssim", "gradient_ratio")
"""Validation metrics in the table that is always open; labeled probes are in it too."""
MAX_APART = 4
"""Metrics named that are not put side by side."""
UNLIKE = "another objective"
"""Stands in a row for a run in which the metric means something else."""


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
    """Shows who is ahead, then verdicts and key metrics with one column per run."""
    validated = dict.fromkeys(name for run in runs for row in run.validations for name in row if name not in NOT_DRAWN)
    key = [name for name in validated if name in KEY_METRICS or PROBE.fullmatch(name)]
    losses = [name for name in LOSSES if any(run.series(name)[1] for run in runs)]
    summaries = [run.summary or {} for run in runs]
    totals = [
        ["Images per second", *(format_number(summary.get("images_per_s"), 3) for summary in summaries)],
        ["Waiting for data", *(percent(data_wait(run)) for run in runs)],
        ["Time", *(duration(summary.get("seconds")) for summary in summaries)],
        ["Alarms", *(str(len(run.alarms)) for run in runs)],
    ]
    apart: list[str] = []
    rows = _rows(runs, losses, apart, validations=False) + _rows(runs, key, apart)
    more = _rows(runs, [name for name in validated if name not in key], apart)
    return section(
        "glance",
        "Who is ahead",
        leader=find_leader(runs),
        runs=[(run.name, judge(run), describe_run(run)) for run in runs],
        names=[run.name for run in runs],
        rows=rows + totals,
        more_rows=more,
        apart=[*apart[:MAX_APART], *([f"and {len(apart) - MAX_APART} more"] if len(apart) > MAX_APART else [])],
    )


def _rows(
    runs: Sequence[RunData], names: Sequence[str], apart: list[str], *, validations: bool = True
) -> list[list[str]]:
    """Gives a row per metric: its title, then its last value in every run, with the first of the validations.

    A row only has runs in which the metric means the same; the titles of those that no two runs share go to `apart`.
    """
    rows = []
    for name in names:
        groups = alike(runs, name)
        shared = [group for group in groups if len(group) > 1]
        if len(groups) > 1:
            apart.append(metric_title(name))
        for group in shared:
            values = [_written(run, name, validations) if i in group else UNLIKE for i, run in enumerate(runs)]
            if any(values[i] != "–" for i in group):
                rows.append([metric_title(name), *values])
    return rows


def _written(run: RunData, name: str, validations: bool) -> str:
    steps, values = run.series(name, validations=validations)
    if not values:
        return "–"
    last = write_metric(name, values[-1])
    if not validations:
        return last
    if steps[-1] == 0:
        return f"{last} before training" if run.last_step == 0 else f"{last} before training, not measured since"
    return f"{write_metric(name, values[0])} → {last}" if len(values) > 1 else last


def settings_section(runs: Sequence[RunData], page: PageData) -> Section:
    """Shows the settings that differ between the runs."""
    count = len({name for run in runs for name in flatten(run.config)} - {"out"})
    differing = differing_settings(runs)
    rows = [(setting_title(name), name, values) for name, values in differing]
    lead = f"{len(differing)} of {count} settings differ."
    return section("settings", "Settings that differ", lead, names=[run.name for run in runs], settings=rows)
