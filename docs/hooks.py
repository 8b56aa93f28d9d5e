"""What mkdocs calls while it builds the site."""

import re
from typing import Any

INLINE_CODE = re.compile(r"(?<!</span>)<code>([^<]+)</code>")
LONGEST, LONGEST_NAME = 28, 40
"""Characters of a word, and of a setting's name, that a line of a phone has room for."""


def on_page_content(html: str, **_: Any) -> str:
    """Keeps words in code in one piece (see extra.css). A docstring introduces code with two colons; a page shows one."""
    html = INLINE_CODE.sub(lambda code: "<code>" + re.sub(r"\S+", _in_one_piece, code[1]) + "</code>", html)
    return html.replace("::</p>", ":</p>")


def _in_one_piece(word: re.Match[str]) -> str:
    longest = LONGEST_NAME if re.fullmatch(r"[\w.*-]+", word[0]) else LONGEST
    return f'<span class="name">{word[0]}</span>' if 1 < len(word[0]) <= longest else word[0]
