"""The head of the page: verdict, key figures, alarms, and what the verdict rests on."""

from collections.abc import Callable, Sequence
from itertools import groupby

from repre.reporting.findings import Finding, ends
from repre.reporting.formatting import duration, figure, share
from repre.reporting.rendering import Child, Html, tag
from repre.reporting.parts import Page, Section, section, tiles
from repre.reporting.run_data import Row, RunData, number
from repre.reporting.verdict import Verdict

SIGNS = {"good": "✓", "bad": "✕", "limit": "!", "unknown": "?", "note": "i"}
SAID = {
    "good": "speaks for it",
    "bad": "speaks against it",
    "limit": "limits it",
    "unknown": "cannot tell",
    "note": "note",
}


def summary(run: RunData, found: Verdict, page: Page) -> Section:
    """The verdict, what it rests on, key figures and alarms."""
    sides = [
        [("Did it learn?", found.of("good", "bad"))],
        [
            ("What limits it?", found.of("limit")),
            ("Also of note", found.of("note")),
            ("Cannot tell", found.of("unknown")),
        ],
    ]
    body = [
        tag(
            "div",
            {"class": f"verdict {found.kind}"},
            tag("p", {"class": "headline"}, f"{found.headline}."),
            tag("p", {"class": "because"}, found.because) if found.because else None,
        ),
        tiles(key_figures(run)),
        alarms(run.alarms),
        tag(
            "div",
            {"class": "findings"},
            [tag("div", None, [_findings(*one) for one in side if one[1]]) for side in sides],
        ),
    ]
    return section("verdict", "Verdict", None, *body)


def _findings(title: str, some: Sequence[Finding]) -> Html:
    items = [
        tag(
            "li",
            {"class": one.kind},
            tag("span", {"class": "sign", "role": "img", "aria-label": SAID[one.kind]}, SIGNS[one.kind]),
            tag("div", None, tag("strong", None, one.title), tag("p", None, one.words)),
        )
        for one in some
    ]
    return tag("div", None, tag("h3", None, title), tag("ul", None, items))


def _three(value: float) -> str:
    return figure(value, digits=3)


LOOKS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("knn", "k-NN", share),
    ("miou", "mIoU", share),
    ("correspondence", "Correspondence", share),
    ("rankme", "Effective rank", _three),
    ("psnr", "PSNR, dB", _three),
)
"""Looks among the key figures: name, label, how they are written."""


def key_figures(run: RunData) -> list[tuple[str, Child, Child]]:
    """What fits on a slide: (label, value, where it came from)."""
    found: list[tuple[str, Child, Child]] = []
    for name, label in (("loss", "Loss"), ("pixel", "Pixel loss")):
        if (pair := ends(run.column(name)[1])) is not None:
            found.append((label, figure(pair[1], digits=3), f"from {figure(pair[0], digits=3)}"))
    for name, label, write in LOOKS:
        values = run.column(name, validations=True)[1]
        if values:
            found.append((label, write(values[-1]), f"from {write(values[0])}" if len(values) > 1 else ""))
    done = run.summary or {}
    speed = number(done.get("images_per_s"))
    if speed is not None:
        found.append(("Images/s", figure(speed, digits=3), f"{figure(done.get('images'))} in all"))
        steps = f"{figure(done.get('steps'))} steps, {figure(done.get('epochs'))} epochs"
        found.append(("Time", duration(done.get("seconds")), steps))
    return found


def alarms(given: list[Row]) -> Html | None:
    """Alarms by monitor, each with its cause and fix."""
    if not given:
        return None
    cards = []
    ordered = sorted(given, key=lambda a: str(a.get("monitor")))
    for monitor, group in groupby(ordered, key=lambda a: str(a.get("monitor"))):
        rows = list(group)
        last = rows[-1]
        when = (
            f"at step {figure(last['step'])}"
            if len(rows) == 1
            else f"{len(rows)} times, last at step {figure(last['step'])}"
        )
        beyond = f"{figure(last.get('value'), digits=3)}, limit {figure(last.get('limit'), digits=3)}"
        cards.append(
            tag(
                "li",
                None,
                tag("h4", None, tag("code", None, monitor), " ", when),
                tag("p", {"class": "beyond"}, beyond),
                tag("p", None, tag("strong", None, "Likely cause. "), str(last.get("cause", "not said"))),
                tag("p", None, tag("strong", None, "Fix. "), str(last.get("fix", "not said"))),
            )
        )
    return tag("div", {"class": "alarms"}, tag("h3", None, "Alarms of the monitors"), tag("ul", None, cards))
