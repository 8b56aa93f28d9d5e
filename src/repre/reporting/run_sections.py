"""The sections with curves, time, data, configuration and versions. They give None, and leave a word, without data."""

from collections.abc import Sequence
from itertools import groupby

from repre.reporting.charts import Chart, charts
from repre.reporting.formatting import duration, flat, share
from repre.reporting.rendering import Child, Html, tag
from repre.reporting.parts import Page, Section, chart, section, slider
from repre.reporting.run_data import LINES, RunData, number
from repre.reporting.verdict import waiting


def curves(run: RunData, page: Page) -> Section | None:
    found = [one for one in charts(run, points=page.quality.points) if one.group != "Time"]
    if not found:
        page.missing.append("Curves: metrics.jsonl holds no figures.")
        return None
    return section("curves", "Curves", CURVES, chart_tools(), chart_groups(found, page))


CURVES = (
    "Lines are logged steps, points are looks at fixed images. Point at a chart, or focus it and use the arrow keys, "
    "to read values."
)


def chart_tools() -> Html:
    smooth = slider("Smoothing", {"min": 0, "max": 0.98, "step": 0.02, "value": 0.6, "data-smoothing": True})
    scale = tag("button", {"type": "button", "data-scale": True, "aria-pressed": "false"}, "Logarithmic axes")
    return tag("div", {"class": "tools"}, smooth, scale)


def chart_groups(found: Sequence[Chart], page: Page) -> list[Html]:
    return [
        tag("div", None, tag("h3", None, group), tag("div", {"class": "charts"}, [chart(page, one) for one in some]))
        for group, some in groupby(found, key=lambda one: one.group)
    ]


# -------------------------------------------------------------------------------------------------------- time


def throughput(run: RunData, page: Page) -> Section | None:
    found = [one for one in charts(run, points=page.quality.points) if one.group == "Time"]
    budget = _budget(run)
    if not found and budget is None:
        page.missing.append("Throughput: nothing was logged about it.")
        return None
    lead = "Where the time went, and how many images were trained on per second."
    return section(
        "time",
        "Throughput and time",
        lead,
        budget,
        tag("div", {"class": "charts"}, [chart(page, one) for one in found]),
    )


def _budget(run: RunData) -> Html | None:
    """The run's seconds by phase, as a bar and in words."""
    done = run.summary or {}
    seconds = number(done.get("seconds"))
    if not seconds:
        return None
    wait = waiting(run)
    phases = {"waiting for data": wait * seconds if wait is not None else 0.0}
    phases |= {
        "monitors": number(done.get("monitor_seconds")) or 0.0,
        "probes": number(done.get("probe_seconds")) or 0.0,
    }
    phases = {name: value for name, value in phases.items() if value > 0}
    rest = seconds - sum(phases.values())
    if rest > 0:
        phases = {"training": rest, **phases}
    whole = sum(phases.values())
    bars, left = [], 0.0
    for place, (name, value) in enumerate(phases.items()):
        width = 100 * value / whole
        bars.append(
            tag(
                "rect",
                {"x": f"{left:.3f}", "width": f"{width:.3f}", "height": 4, "class": f"fill-{place % 8}"},
                tag("title", None, name),
            )
        )
        left += width
    drawn = tag(
        "svg",
        {
            "class": "budget",
            "viewBox": "0 0 100 4",
            "preserveAspectRatio": "none",
            "role": "img",
            "aria-label": "Time by phase",
        },
        bars,
    )
    keys = [
        tag(
            "li",
            None,
            tag("span", {"class": f"key fill-{i % 8}"}),
            f"{name}: {duration(value)} ({share(value / whole)})",
        )
        for i, (name, value) in enumerate(phases.items())
    ]
    return tag("div", None, drawn, tag("ul", {"class": "keys"}, keys))


# ----------------------------------------------------------------------------------- data, configuration, versions


def data_problems(run: RunData, page: Page) -> Section:
    distinct = run.column("distinct_images", validations=True)[1]
    words: list[Child] = [tag("p", None, "Data: ", tag("code", None, str(run.config.get("data", "not said"))))]
    if distinct:
        words.append(
            tag("p", None, f"Of the images that were looked at, {share(distinct[-1])} differ from one another.")
        )
    if not run.unreadable_count:
        words.append(tag("p", None, "No file was reported as unreadable."))
    else:
        shown = "" if run.unreadable_count <= LINES else f"; the first {LINES} are shown"
        many = "files" if run.unreadable_count > 1 else "file"
        words.append(tag("p", None, f"{run.unreadable_count} {many} could not be read and passed over{shown}:"))
        words.append(
            tag("ul", {"class": "files"}, [tag("li", None, tag("code", None, line[:500])) for line in run.unreadable])
        )
    words += [tag("p", {"class": "caution"}, note) for note in run.notes]
    return section("data", "Data", None, *words)


def configuration(run: RunData, page: Page) -> Section:
    """Every setting, by part, with a field to search; then versions and machine."""
    parts = []
    alone = {key for key, value in run.config.items() if not isinstance(value, dict)}
    ordered = sorted(flat(run.config).items(), key=lambda item: item[0] not in alone)
    for key, group in groupby(ordered, key=lambda item: "run" if item[0] in alone else item[0].split(".")[0]):
        rows = [
            tag("div", {"data-setting": name}, tag("dt", None, name), tag("dd", None, value)) for name, value in group
        ]
        parts.append(
            tag("details", {"open": key == "run"}, tag("summary", None, key), tag("dl", {"class": "settings"}, rows))
        )
    search = tag(
        "label",
        {"class": "search"},
        tag("span", None, "Search"),
        tag("input", {"type": "search", "data-search": True, "placeholder": "lr, views, decoder"}),
    )
    machine = [
        tag("div", None, tag("dt", None, name), tag("dd", None, value)) for name, value in flat(run.environment).items()
    ]
    versions = [tag("h3", None, "Versions and machine"), tag("dl", {"class": "settings"}, machine)] if machine else []
    nothing = tag("p", {"class": "caution", "hidden": True, "data-nothing": True}, "No setting matches.")
    return section(
        "configuration",
        "Configuration",
        "What the run was told to do; config.yaml holds the same.",
        search,
        tag("div", {"class": "config"}, parts),
        nothing,
        *versions,
    )


def missing(page: Page) -> Section | None:
    if page.quality.lost:
        page.missing.append(f"To stay within the size of the page, {page.quality.lost}.")
    if not page.missing:
        return None
    return section("left-out", "Left out", None, tag("ul", None, [tag("li", None, words) for words in page.missing]))
