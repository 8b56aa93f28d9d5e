"""The results of the GPU script as Markdown tables and as a short summary."""

import statistics
from typing import Any

from machine import describe_machine

TITLES = {
    "step": "The step alone: views are ready, weights are updated; MFU is of the data sheet's peak",
    "branch": "What the reconstruction branch adds to a step, in percent of the step without it, round by round",
    "views": "The views of a batch, from pixels on the device",
    "loader": "The loader alone",
    "pipeline": "The whole pipeline beside rivals",
    "ratio": "repre against the fastest rival that ran just before it",
    "recipe": "The published recipe, vit-small-moco-v3 with the branch, without an option for memory",
    "resume": "A kill and a resume; fp16",
    "lease": "Experiments on real images",
    "tests": "Tests with the marker cuda",
}


def markdown(results: dict[str, Any]) -> str:
    """Returns all tables, each with one row per measurement."""
    lines = [f"`{results['command']}`: {describe_machine(results['machine'])}.", ""]
    tables: dict[str, list[dict[str, Any]]] = {}
    for part in results["parts"].values():
        for entry in part["rows"]:
            tables.setdefault(entry["table"], []).append(entry["row"])
    for name in sorted(tables, key=list(TITLES).index):
        lines += [f"**{TITLES[name]}**", "", *table(tables[name]), ""]
    return "\n".join([*lines, summary(results)])


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Returns the lines of a table with every column that any row has; rows that repeat a measurement become one."""
    rows = merge_repeats(rows)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [f"| {' | '.join(column.replace('_', ' ') for column in columns)} |", "|---" * len(columns) + "|"]
    return lines + [f"| {' | '.join(cell(row.get(column, '')) for column in columns)} |" for row in rows]


def merge_repeats(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Joins rows whose texts and integers agree: every other number becomes a list of the numbers of all of them."""
    merged: dict[str, dict[str, Any]] = {}
    for row in rows:
        key = repr([value for value in row.values() if not isinstance(value, float | list)])
        if key not in merged:
            merged[key] = dict(row)
            continue
        for column, value in row.items():
            if isinstance(value, float):
                known = merged[key][column]
                merged[key][column] = [*known, value] if isinstance(known, list) else [known, value]
    return list(merged.values())


def cell(value: Any) -> str:
    """Returns a value as text; a list of numbers as its median and range."""
    if isinstance(value, list):
        if len(value) < 2:
            return cell(value[0]) if value else ""
        return f"{cell(float(statistics.median(value)))} ({cell(min(value))} to {cell(max(value))})"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value).replace("|", "/")


def summary(results: dict[str, Any]) -> str:
    """Returns one line per part: what became of it."""
    lines = ["| part | seconds | |", "|---|---|---|"]
    for name, part in results["parts"].items():
        lines.append(
            f"| {name} | {part['seconds']:.0f} | {part['status']}{': ' + part['note'] if part['note'] else ''} |"
        )
    return "\n".join(lines) + "\n"
