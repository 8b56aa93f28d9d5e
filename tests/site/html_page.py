"""What a test needs to know of a built HTML page."""

from html.parser import HTMLParser
from pathlib import Path

EMPTY = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
CODE = {"code", "pre", "script", "style", "svg"}


class HtmlPage(HTMLParser):
    """The anchors, links, resources, tables and text of a page.

    Attributes:
        ids: the anchors of the page.
        links: targets of `a`.
        resources: what the browser loads with the page: scripts, styles, images.
        tables: number of tables.
        text: pieces of text in the article outside code, each with its innermost tag.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.resources: list[str] = []
        self.tables = 0
        self.text: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids |= {values[name] for name in ("id", "name") if name in values and (name == "id" or tag == "a")}
        self.tables += tag == "table"
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag in ("img", "script", "source", "iframe") and "src" in values:
            self.resources.append(values["src"])
        if tag == "link" and values.get("rel") in ("stylesheet", "icon", "preload"):
            self.resources.append(values["href"])
        if tag not in EMPTY:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if data.strip() and "article" in self._open and not CODE & set(self._open):
            self.text.append((self._open[-1], data))
