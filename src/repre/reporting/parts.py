"""Pieces that sections are made of: charts, rows of pictures, tables, and what the page's script needs beside them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from repre.reporting.charts import Chart
from repre.reporting.rendering import Child, Html, tag
from repre.reporting.image_encoding import Album, Quality


@dataclass
class Page:
    """What sections put into the page beside their markup."""

    quality: Quality
    album: Album = field(init=False)
    charts: list[dict[str, Any]] = field(default_factory=list)
    films: list[dict[str, Any]] = field(default_factory=list)
    patches: list[dict[str, Any]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.album = Album(self.quality)

    def data(self) -> dict[str, Any]:
        return {"pictures": self.album.uris, "charts": self.charts, "films": self.films, "patches": self.patches}


@dataclass(frozen=True)
class Section:
    """A part of the page with its place in the contents."""

    identity: str
    title: str
    body: Html


def section(identity: str, title: str, lead: Child, *body: Child) -> Section:
    heading = tag("h2", {"id": f"{identity}-title"}, title)
    told = tag("p", {"class": "lead"}, lead) if lead else None
    whole = tag("section", {"id": identity, "aria-labelledby": f"{identity}-title"}, heading, told, body)
    return Section(identity, title, whole)


def chart(page: Page, one: Chart) -> Html:
    """A chart that the script draws."""
    page.charts.append(asdict(one))
    return tag(
        "figure",
        {"class": "chart", "data-chart": len(page.charts) - 1},
        tag("figcaption", None, tag("h4", None, one.title), tag("p", None, one.words) if one.words else None),
        tag("div", {"class": "plot"}),
    )


def picture(name: str, alt: str, *, pixelated: bool = False) -> Html:
    """A picture of the album; the script gives it its content."""
    return tag("img", {"data-picture": name, "alt": alt, "class": "pixelated" if pixelated else None})


def matrix(rows: Sequence[tuple[str, str, Sequence[Child]]], label: str) -> Html:
    """Rows of pictures, (title, remark, cells) each; it scrolls by itself where it is too wide."""
    body = [
        tag(
            "tr",
            None,
            tag("th", {"scope": "row"}, title, tag("small", None, remark) if remark else None),
            [tag("td", None, cell) for cell in cells],
        )
        for title, remark, cells in rows
    ]
    return scroll(tag("table", {"class": "matrix"}, tag("tbody", None, body)), label)


def table(head: Sequence[Child], rows: Sequence[Sequence[Child]], label: str, *, words: int = 1) -> Html:
    """A table whose first `words` columns are text and whose others are figures."""
    kinds = ["text" if i < words else "figure" for i in range(len(head))]
    top = tag("tr", None, [tag("th", {"scope": "col", "class": kind}, name) for kind, name in zip(kinds, head)])
    body = [tag("tr", None, [tag("td", {"class": kind}, cell) for kind, cell in zip(kinds, row)]) for row in rows]
    return scroll(tag("table", {"class": "figures"}, tag("thead", None, top), tag("tbody", None, body)), label)


def scroll(content: Html, label: str) -> Html:
    """A region that scrolls sideways, by keyboard too."""
    return tag("div", {"class": "scroll", "role": "region", "aria-label": label, "tabindex": 0}, content)


def slider(label: str, attributes: dict[str, str | int | float | bool | None]) -> Html:
    """A labeled slider with room for its value."""
    return tag(
        "label",
        {"class": "slider"},
        tag("span", None, label),
        tag("input", {"type": "range", **attributes}),
        tag("output", None),
    )


def tiles(entries: Sequence[tuple[str, Child, Child]]) -> Html:
    """Key figures: (label, value, remark)."""
    return tag(
        "dl",
        {"class": "tiles"},
        [
            tag(
                "div",
                None,
                tag("dt", None, label),
                tag("dd", {"class": "value"}, value),
                tag("dd", {"class": "remark"}, remark),
            )
            for label, value, remark in entries
        ],
    )
