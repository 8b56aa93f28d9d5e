"""The fault matrix as a table in docs/reliability.md, between two marks; the words around it are written by hand."""

from pathlib import Path
from typing import Any

BEGIN, END = "<!-- matrix: written by `make faults` -->", "<!-- end of the matrix -->"


def write_page(results: dict[str, list[dict[str, Any]]], page: Path) -> None:
    """Puts the rows of all areas in the place of the old ones."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{table(results)}\n\n{END}{after}", encoding="utf-8")


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """One line per row, in the order of the areas; a row that did not pass says so first."""
    lines = ["| what was broken | how often | what happened | lost |", "|---|---|---|---|"]
    for rows in results.values():
        for row in rows:
            happened = row["happened"] if row["passed"] else f"**not as promised:** {row['happened']}"
            cells = (f"{row['area']}: {row['fault']}", str(row["times"]), happened, row["lost"])
            lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    total, passed = sum(map(len, results.values())), sum(row["passed"] for rows in results.values() for row in rows)
    seconds = sum(row["seconds"] for rows in results.values() for row in rows)
    return "\n".join(lines) + f"\n\n{passed} of {total} rows as promised; {seconds / 60:.0f} minutes in all."
