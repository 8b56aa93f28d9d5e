"""What mkdocs calls while it builds the site."""

import re
from typing import Any

INLINE_CODE = re.compile(r"(?<!</span>)<code>([^<]+)</code>")
NAME = re.compile(r"[\w-]*\w[.-]\w[\w.-]*\*?|--\w+")
"""An option, a setting or a file, such as --optim.lr."""


def on_page_content(html: str, **_: Any) -> str:
    """Keeps names in code in one piece (see extra.css). A docstring introduces code with two colons; a page shows one."""
    html = INLINE_CODE.sub(
        lambda code: "<code>" + NAME.sub(r'<span class="name">\g<0></span>', code[1]) + "</code>", html
    )
    return html.replace("::</p>", ":</p>")
