"""Builds the head of the page of one run: verdict, key metrics, alarms, and the findings behind the verdict."""

from collections.abc import Callable, Sequence
from itertools import groupby

from repre.reporting.findings import ends
from repre.reporting.formatting import duration, format_number, percent
from repre.reporting.next_steps import after_alarm
from repre.reporting.one_advice import settled
from repre.reporting.rendering import PageData, Section, section
from repre.reporting.run_data import Row, RunData, finite_number
from repre.reporting.verdict import Verdict, judge
from repre.training.failure_record import NextStep

SIGNS = {
    "good": ("✓", "evidence of learning"),
    "bad": ("✕", "evidence against learning"),
    "limit": ("!", "limit"),
    "unknown": ("?", "unknown"),
    "note": ("i", "note"),
}
"""By kind of finding: a sign, and its name for screen readers."""


def verdict_section(run: RunData, page: PageData) -> Section:
    """Shows the verdict with everything that it rests on."""
    verdict = judge(run)
    columns = [
        [("Did it learn?", verdict.of_kind("good", "bad"))],
        [
            ("What limits it?", verdict.of_kind("limit")),
            ("Notes", verdict.of_kind("note")),
            ("Unknown", verdict.of_kind("unknown")),
        ],
    ]
    return section(
        "verdict",
        "Verdict",
        verdict=verdict,
        tiles=key_metrics(run),
        alarms=[_with_advice(run, verdict, name, rows) for name, rows in _by_monitor(run.alarms)],
        columns=[groups for column in columns if (groups := [group for group in column if group[1]])],
        signs=SIGNS,
    )


def _with_advice(
    run: RunData, verdict: Verdict, monitor: str, rows: list[Row]
) -> tuple[str, list[Row], object, NextStep | None]:
    """Gives a monitor, its alarms, the fix, and the next step; where stronger evidence decides, the fix says so."""
    step, fix = after_alarm(run, rows[-1]), rows[-1].get("fix", "unknown")
    if step is None or (advice := settled(step, verdict.decided)) == step:
        return monitor, rows, fix, step
    return monitor, rows, f"Stronger evidence on this page decides: {advice.do}.", advice


def _three_digits(value: float) -> str:
    return format_number(value, 3)


VALIDATION_TILES: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("probe/miou", "mIoU, your masks", percent),
    ("probe/patch_knn", "Patch k-NN mIoU, your masks", percent),
    ("probe/linear", "Linear, your labels", percent),
    ("probe/knn", "k-NN, your labels", percent),
    ("knn", "k-NN", percent),
    ("miou", "mIoU", percent),
    ("correspondence", "Correspondence", percent),
    ("rankme", "Effective rank", _three_digits),
    ("psnr", "PSNR, dB", _three_digits),
)
"""Validation metrics among the key metrics: name, label, format."""


def key_metrics(run: RunData) -> list[tuple[str, str, str]]:
    """Gives the metrics that fit on a slide: label, value, remark."""
    tiles = []
    for name, label in (("loss", "Loss"), ("pixel", "Pixel loss")):
        if (pair := ends(run.series(name)[1])) is not None:
            tiles.append((label, _three_digits(pair[1]), f"from {_three_digits(pair[0])}"))
    for name, label, write in VALIDATION_TILES:
        steps, values = run.series(name, validations=True)
        if not values or steps[-1] == 0:
            continue  # measured before training only, which is no result
        start = f"from {write(values[0])}" if len(values) > 1 else ""
        remark = f"at step {steps[-1]:.0f}, {start}".removesuffix(", ") if run.summary is None else start
        tiles.append((label, write(values[-1]), remark))
    summary = run.summary or {}
    speed = finite_number(summary.get("images_per_s"))
    if speed is not None:
        tiles.append(("Images/s", _three_digits(speed), f"{format_number(summary.get('images'))} in total"))
        length = f"{format_number(summary.get('steps'))} steps, {format_number(summary.get('epochs'))} epochs"
        tiles.append(("Time", duration(summary.get("seconds")), length))
    return tiles


def _by_monitor(alarms: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Groups alarms by the metric that raised them."""
    ordered = sorted(alarms, key=lambda alarm: str(alarm.get("monitor")))
    return [(name, list(group)) for name, group in groupby(ordered, key=lambda alarm: str(alarm.get("monitor")))]
