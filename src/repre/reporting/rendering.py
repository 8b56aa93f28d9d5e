"""HTML that cannot be broken by what is shown: every string is escaped unless it was made here."""

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

VOID = {"img", "input", "meta", "br"}
KEPT = "\n\u00a0\u2009\u202f"
"""Characters that str.isprintable refuses and a page may hold."""


class Html(str):
    """Text that is markup already."""


Child = str | int | float | None | Sequence["Child"]


def tag(name: str, attributes: Mapping[str, str | int | float | bool | None] | None = None, *children: Child) -> Html:
    """An element. Attributes that are None or False are left out, True stands alone; children that are no `Html` are
    escaped, None is nothing, sequences are joined."""
    given = [
        f" {key}" if value is True else f' {key}="{escape(str(value))}"'
        for key, value in (attributes or {}).items()
        if value is not None and value is not False
    ]
    opened = f"<{name}{''.join(given)}>"
    return Html(opened if name in VOID else f"{opened}{join(children)}</{name}>")


def join(children: Child) -> Html:
    """Children one after the other as markup."""
    if children is None:
        return Html("")
    if isinstance(children, Html):
        return children
    if isinstance(children, str | int | float):
        return Html(escape(str(children)))
    return Html("".join(join(child) for child in children))


def escape(text: str) -> str:
    """Text for an element or a quoted attribute. Characters that hide or reorder others (controls, lone surrogates,
    U+202E) become visible codes: file names may hold them."""
    return html.escape("".join(c if c.isprintable() or c in KEPT else f"\\u{ord(c):04x}" for c in text), quote=True)


def data(identity: str, value: Any) -> Html:
    """Plain values for the page's script, as an element that no value can close; no NaN."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Html(f'<script type="application/json" id="{escape(identity)}">{text}</script>')
