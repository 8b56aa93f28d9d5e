"""Renders the templates of the page: Jinja2 escapes all text, and characters that hide others become visible codes."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from repre.reporting.charts import Chart
from repre.reporting.formatting import duration, format_number, percent
from repre.reporting.image_encoding import Album, Quality
from repre.reporting.titles import metric_title

SPACES = "\n\u00a0\u2009\u202f"
"""Characters that str.isprintable refuses and a page may contain."""
OPTION = re.compile(r"--[a-z][\w.-]*\w|\b\d+e-\d+\b")


def visible(value: Any) -> Any:
    """Replaces control characters, lone surrogates and direction marks (U+202E) by their codes: file names may contain them.

    Markup stays as it is; None becomes empty text.
    """
    if value is None or isinstance(value, Markup):
        return value or ""
    return "".join(c if c.isprintable() or c in SPACES else f"\\u{ord(c):04x}" for c in str(value))


def with_options(text: Any) -> Markup:
    """Marks options and numbers in a text, such as --optim.lr and 2e-4: lines do not break at their hyphens."""
    return Markup(OPTION.sub(r'<span class="option">\g<0></span>', str(escape(visible(text)))))


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("repre.reporting"),
        autoescape=True,
        finalize=visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.filters |= {"number": format_number, "percent": percent, "duration": duration}
    environment.filters["options"] = with_options
    environment.filters["metric_title"] = lambda name: metric_title(str(name))
    return environment


ENVIRONMENT = _environment()


def render(template: str, **values: Any) -> Markup:
    """Renders a file of templates/ with these values."""
    return Markup(ENVIRONMENT.get_template(template).render(values))


@dataclass(frozen=True)
class Section:
    """One section of the page; `name` is its anchor, its link in the contents and its template."""

    name: str
    title: str
    lead: str
    content: Markup


def section(name: str, title: str, lead: str = "", **values: Any) -> Section:
    """Renders the section of the template ``NAME.html``; `lead` is the sentence below its title."""
    return Section(name, title, lead, render(f"{name}.html", **values))


@dataclass
class PageData:
    """Collects what sections hand to the page's script, and what had to be left out."""

    quality: Quality
    album: Album = field(init=False)
    charts: list[Chart] = field(default_factory=list)
    films: list[dict[str, Any]] = field(default_factory=list)
    patches: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.album = Album(self.quality)

    def add_charts(self, charts: Sequence[Chart]) -> list[tuple[str, list[tuple[int, Chart]]]]:
        """Registers charts; gives them by group, each with the index by which the script finds its data."""
        numbered = list(enumerate(charts, start=len(self.charts)))
        self.charts += charts
        return [(group, list(members)) for group, members in groupby(numbered, key=lambda pair: pair[1].group)]

    def as_json(self) -> dict[str, Any]:
        """Plain values for the page's script."""
        charts = [asdict(chart) for chart in self.charts]
        return {"images": self.album.uris, "charts": charts, "films": self.films, "patches": self.patches}
