"""Every Markdown page: tables have as many cells in each row as in their header, and code blocks end."""

from pathlib import Path

import pytest

from tests.site.markdown_pages import PAGES, ROOT, cells, outside_fences, tables


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_tables_and_code_blocks_are_whole(page: Path) -> None:
    lines, closed = outside_fences(page.read_text(encoding="utf-8"))
    assert closed, "a code block is not closed"
    in_tables: set[int] = set()
    for first, rows in tables(lines):
        assert not first or not lines[first - 1].strip(), f"line {first + 1}: a table needs an empty line before it"
        for number, row in enumerate(rows, start=first + 1):
            assert row.lstrip().startswith("|"), f"line {number}: the table ends without an empty line"
            assert cells(row) == cells(rows[0]), f"line {number}: {row}"
            in_tables.add(number - 1)
    stray = [number for number, line in enumerate(lines) if line.lstrip().startswith("|") and number not in in_tables]
    assert not stray, f"line {stray[0] + 1}: a row without a table"


def test_cells_are_counted_as_mkdocs_counts_them() -> None:
    assert cells("| a | `b | c` | d \\| e |") == 3
    assert cells("a | b") == 2
    assert tables(["", "| a | b |", "|---|:-:|", "| 1 | 2 |", "", "text"]) == [
        (1, ["| a | b |", "|---|:-:|", "| 1 | 2 |"])
    ]
    assert outside_fences("```\n| a\n```") == (["", "", ""], True)
    assert not outside_fences("````\n```\n")[1]
