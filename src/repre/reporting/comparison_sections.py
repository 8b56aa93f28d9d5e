"""The page of several runs side by side: curves over one another, tables in columns, only the settings that differ."""

from collections.abc import Sequence

from repre.reporting import evaluation_section as results
from repre.reporting import image_sections as picture_sections
from repre.reporting import run_sections as sections
from repre.reporting.charts import NOT_DRAWN, overlays
from repre.reporting.findings import PROBE
from repre.reporting.formatting import described, duration, figure, flat, share
from repre.reporting.rendering import Child, tag
from repre.reporting.parts import Page, Section, section, table
from repre.reporting.run_data import RunData
from repre.reporting.verdict import verdict, waiting

Labeled = Sequence[tuple[str, RunData]]
LOSSES = ("loss", "contrastive", "pixel")
KEY = ("rankme", "embedding_std", "correspondence", "psnr", "ssim", "gradient_ratio")
"""Looks that stand in the table without being asked for."""
IMAGES = 6
"""Images per run on which patches are chosen."""


def labeled(runs: Sequence[RunData]) -> list[tuple[str, RunData]]:
    """Runs with a name each: the folder's, with as much of the path before it as it takes to tell them apart."""
    for depth in range(1, 8):
        names = ["/".join(run.path.resolve().parts[-depth:]) for run in runs]
        if len(set(names)) == len(names):
            return list(zip(names, runs))
    return [(f"{run.name} ({i + 1})", run) for i, run in enumerate(runs)]


def comparison(runs: Labeled, page: Page) -> tuple[str, str, list[Section]]:
    """Title, subtitle and sections of the page of several runs."""
    parts = (glance, curves, settings, reconstruction, colors, similarity, evaluations)
    shown = [one for part in parts if (one := part(runs, page)) is not None]
    if (left := sections.missing(page)) is not None:
        shown.append(left)
    names = [name for name, _ in runs]
    title = " · ".join(names) if len(names) < 4 else f"{len(names)} runs"
    return title, "Several runs side by side", shown


def glance(runs: Labeled, page: Page) -> Section:
    """Verdicts and key figures, one column per run."""
    verdicts = [verdict(run) for _, run in runs]
    cards = [
        tag("article", {"class": f"verdict {found.kind}"}, tag("h3", {"class": f"run-{place % 8}"}, name),
            tag("p", {"class": "headline"}, f"{found.headline}."), tag("p", {"class": "remark"}, described(run)))
        for place, ((name, run), found) in enumerate(zip(runs, verdicts))
    ]  # fmt: skip
    measured = dict.fromkeys(name for _, run in runs for validation in run.validations for name in validation)
    names = [name for name in measured if name not in NOT_DRAWN]
    done = [run.summary or {} for _, run in runs]
    logged = [[run.column(name)[1] for _, run in runs] for name in LOSSES]
    rows: list[list[Child]] = [
        [name, *(figure(values[-1]) if values else "–" for values in found)]
        for name, found in zip(LOSSES, logged)
        if any(found)
    ]
    rows += [_metric_row(runs, name) for name in names if name in KEY or PROBE.fullmatch(name)]
    rows.append(["images per second", *(figure(one.get("images_per_s"), digits=3) for one in done)])
    rows.append(["waiting for data", *(share(waiting(run)) for _, run in runs)])
    rows.append(["time", *(duration(one.get("seconds")) for one in done)])
    rows.append(["alarms", *(figure(len(run.alarms)) for _, run in runs)])
    others = [_metric_row(runs, name) for name in names if name not in KEY and not PROBE.fullmatch(name)]
    head = ["Figure", *(name for name, _ in runs)]
    more = tag(
        "details",
        {"class": "more"},
        tag("summary", None, f"{len(others)} more figures"),
        table(head, others, "More figures"),
    )
    lead = "The last logged losses, and the first and last look of each run."
    shown = [tag("div", {"class": "cards"}, cards), table(head, rows, "Key figures by run"), more if others else None]
    return section("verdict", "At a glance", lead, shown)


def _metric_row(runs: Labeled, name: str) -> list[Child]:
    """A row of the table: the first and the last look of every run."""
    values = [run.column(name, validations=True)[1] for _, run in runs]
    return [name, *(f"{figure(v[0], digits=3)} → {figure(v[-1], digits=3)}" if v else "–" for v in values)]


def curves(runs: Labeled, page: Page) -> Section | None:
    found = overlays(runs, points=max(100, page.quality.points // len(runs)))
    if not found:
        page.missing.append("Curves: no run has logged figures.")
        return None
    return section("curves", "Curves", sections.CURVES, sections.chart_tools(), sections.chart_groups(found, page))


def settings(runs: Labeled, page: Page) -> Section:
    """Only what differs."""
    all_settings = [flat(run.config) for _, run in runs]
    names = list(dict.fromkeys(name for one in all_settings for name in one))
    differing = [name for name in names if len({one.get(name, "not set") for one in all_settings}) > 1]
    rows = [[tag("code", None, name), *(one.get(name, "not set") for one in all_settings)] for name in differing]
    lead = f"{len(differing)} of {len(names)} settings differ."
    body = (
        table(["Setting", *(name for name, _ in runs)], rows, "Settings that differ", words=1 + len(runs))
        if rows
        else None
    )
    return section("settings", "Settings that differ", lead, body)


def reconstruction(runs: Labeled, page: Page) -> Section | None:
    shown: list[Child] = []
    for place, (name, run) in enumerate(runs):
        if (one := picture_sections.film(run, page, f"panel-{place}")) is not None:
            shown += [tag("h3", {"class": f"run-{place % 8}"}, name), one]
    if not shown:
        page.missing.append("Reconstruction over time: no run has panels.")
        return None
    return section(
        "reconstruction", "Reconstruction over time", "What the encoder saw above, what was rebuilt below.", shown
    )


def colors(runs: Labeled, page: Page) -> Section | None:
    """The last level of every run."""
    shown: list[Child] = []
    for place, (name, run) in enumerate(runs):
        last = picture_sections.levels_of(run, "pca")[-1:]
        if (one := picture_sections.color_rows(run, page, f"run-{place}", last)) is not None:
            shown += [tag("h3", {"class": f"run-{place % 8}"}, name), one]
    if not shown:
        page.missing.append(f"Patch features as colors: {picture_sections.NO_SNAPSHOTS}")
        return None
    lead = "Three principal components of the last level's patch features; colors can be compared within a run, not across."
    return section("colors", "Patch features as colors", lead, shown)


def similarity(runs: Labeled, page: Page) -> Section | None:
    """The same patch asked in every run."""
    shown: list[Child] = []
    for place, (name, run) in enumerate(runs):
        if (one := picture_sections.maps(run, page, f"run-{place}", label=name, most=IMAGES)) is not None:
            shown += [tag("h3", {"class": f"run-{place % 8}"}, name), one]
    if not shown:
        page.missing.append(f"Similarity maps: {picture_sections.NO_SNAPSHOTS}")
        return None
    lead = "Choose a patch in one run: the same place is asked in all of them. Rings mark the best match in each image."
    return section("similarity", "What resembles this patch?", lead, picture_sections.map_tools(), shown)


def evaluations(runs: Labeled, page: Page) -> Section | None:
    """Comparisons that name any of the runs, once each, and the stored results of every run."""
    once = {one["file"]: one for _, run in runs for one in run.comparisons}
    shown: list[Child] = [results.compared(one) for one in once.values()]
    for place, (name, run) in enumerate(runs):
        if run.evaluations:
            shown += [tag("h3", {"class": f"run-{place % 8}"}, name), results.stored(run.evaluations, run.chance)]
    if not shown:
        page.missing.append("Evaluations: none is stored; repre eval and repre compare write them.")
        return None
    return section("evaluations", "Evaluations", "What the encoders are worth on labeled data.", shown)
