"""Writes the fault matrix into docs/reliability.md, between two marks. The text around it is written by hand."""

from pathlib import Path
from typing import Any

BEGIN, END = "<!-- matrix: written by `make faults` -->", "<!-- end of the matrix -->"


def write_page(results: dict[str, list[dict[str, Any]]], page: Path) -> None:
    """Replaces the matrix of a page.

    Args:
        results: rows by area.
    """
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{table(results)}\n\n{END}{after}", encoding="utf-8")


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Returns the matrix in Markdown, one line per row; a row that did not pass says so."""
    lines = ["| what was broken | how often | what happened | lost |", "|---|---|---|---|"]
    rows = [row for area in results.values() for row in area]
    for row in rows:
        happened = row["happened"] if row["passed"] else f"**not as promised:** {row['happened']}"
        cells = (f"{row['area']}: {row['fault']}", str(row["times"]), happened, row["lost"])
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    passed = sum(row["passed"] for row in rows)
    minutes = sum(row["seconds"] for row in rows) / 60
    return "\n".join(lines) + f"\n\n{passed} of {len(rows)} rows as promised; {minutes:.0f} minutes in all."
