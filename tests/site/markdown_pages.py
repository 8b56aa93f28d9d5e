"""The Markdown pages of the project, and the tables in them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("docs", "examples", "experiments", "benchmarks")
_below = (page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md") if "envs" not in page.parts)
PAGES = sorted([*ROOT.glob("*.md"), *_below])
"""Without those of the rivals' environments, which the benchmarks may have made."""
FENCE = re.compile(r" *(`{3,}|~{3,})")
SEPARATOR = re.compile(r" *\|?( *:?-+:? *\|)+( *:?-+:? *)?$")


def outside_fences(text: str) -> tuple[list[str], bool]:
    """The lines of a page, with an empty line for each line of a code block; and whether the last code block is closed."""
    lines: list[str] = []
    opened = ""
    for line in text.splitlines():
        mark = FENCE.match(line)
        lines.append("" if opened or mark else line)
        if mark and not opened:
            opened = mark[1]
        elif mark and mark[1].startswith(opened):
            opened = ""
    return lines, not opened


def cells(line: str) -> int:
    """The number of cells in a row of a table. A pipe in code or behind a backslash starts no cell."""
    text = re.sub(r"\\.", "", line.strip())
    text = re.sub(r"(`+)(.+?)\1", "code", text)
    return text.removeprefix("|").removesuffix("|").count("|") + 1


def tables(lines: list[str]) -> list[tuple[int, list[str]]]:
    """The tables of a page: the index of the first line, and the rows with the separator."""
    found: list[tuple[int, list[str]]] = []
    for index, line in enumerate(lines):
        if SEPARATOR.match(line) and index and "|" in lines[index - 1]:
            end = next((i for i in range(index, len(lines)) if not lines[i].strip()), len(lines))
            found.append((index - 1, lines[index - 1 : end]))
    return found
