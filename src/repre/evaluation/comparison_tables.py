"""Writes a comparison: compare.md, compare.csv and compare.json."""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repre.errors import UserError
from repre.evaluation.comparison import Comparison, Row
from repre.evaluation.gains import Gain, all_equal, describe_gain
from repre.evaluation.metric_units import is_share, metric_kind
from repre.utils.io import write_atomically, write_json
from repre.utils.os_errors import reason_of
from repre.utils.printable_text import printable


def write_tables(comparison: Comparison, out: Path, *, seeds: int) -> None:
    """Writes the three files to a folder.

    Raises:
        UserError: the folder cannot be made.
        RunError: a file cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written ({reason_of(error)})") from error
    text = markdown(comparison.rows, seeds=seeds, notes=comparison.notes)
    write_atomically(out / "compare.md", lambda file: file.write(text.encode()))
    write_atomically(out / "compare.csv", lambda file: file.write(as_csv(comparison.rows).encode()))
    sources = [
        {
            "path": os.path.relpath(result["path"], out),
            "start": result["start"],
            "weights": result["encoder"]["weights"],
            "step": result.get("step"),
        }
        for results in comparison.results.values()
        for result in results
    ]
    content = {"format": 2, "seeds": seeds, "notes": comparison.notes, "rows": as_dicts(comparison.rows)}
    write_json(out / "compare.json", {**content, "results": sources})


def markdown(rows: Sequence[Row], *, seeds: int, notes: Sequence[str] = ()) -> str:
    """Returns the table as Markdown: in percent, mean and standard deviation over seeds, gains in points."""
    supervised = any(row.over_supervised for row in rows)
    head = ["evaluation", "metric", "encoder", "mean ± sd", "gain over random init"]
    head += ["gain over supervised"] * supervised + ["minutes"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        kind = metric_kind(row.metric)
        metric = f"{row.metric} ({kind.unit or 'number'})" if kind else row.metric
        cells = [row.evaluation, metric, printable(row.encoder).replace("|", "\\|"), describe_values(row)]
        gains = [row.over_random] + [row.over_supervised] * supervised
        cells += [_describe(over, row.metric) for over in gains]
        lines.append("| " + " | ".join([*cells, f"{row.seconds / 60:.1f}"]) + " |")
    spread = f"{seeds} seeds" if seeds > 1 else "one seed, so no standard deviation"
    shares = "In percent" if all(is_share(row.metric) for row in rows) else "Values without a unit are in percent"
    note = f"{shares}; {spread}; gains at equal seeds with their 95 % interval; minutes of one run."
    return "\n".join(lines) + "\n\n" + "\n".join([note, *(f"- {printable(text)}" for text in notes)]) + "\n"


def describe_values(row: Row) -> str:
    """Mean and standard deviation of a row: in percent for shares; says so where all seeds give the same."""
    factor = 100 if is_share(row.metric) else 1
    if row.deviation is not None:
        return f"{factor * row.mean:.2f} ± {factor * row.deviation:.2f}"
    return f"{factor * row.mean:.2f}" + (" (each seed)" if all_equal(row.values) else "")


def as_csv(rows: Sequence[Row]) -> str:
    """Returns the table as CSV, with the gain over random init."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    gain_columns = ("gain_over_random", "interval", "verdict")
    about = ("test_images", "weights")
    writer.writerow(("evaluation", "metric", "start", "mean", "sd", *gain_columns, "seconds", "values", *about))
    for row in rows:
        over = row.over_random
        gains = (over.mean, over.half, over.verdict) if over else (None, None, None)
        values = " ".join(map(str, row.values))
        cells = (
            row.evaluation,
            row.metric,
            printable(row.encoder),
            row.mean,
            row.deviation,
            *gains,
            row.seconds,
            values,
        )
        writer.writerow((*cells, row.images, " ".join(row.weights)))
    return text.getvalue()


def as_dicts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Returns the rows as plain values, for compare.json."""
    return [
        {
            "evaluation": row.evaluation,
            "metric": row.metric,
            "start": row.encoder,
            "values": list(row.values),
            "mean": row.mean,
            "sd": row.deviation,
            "over_random": vars(row.over_random) if row.over_random else None,
            "over_supervised": vars(row.over_supervised) if row.over_supervised else None,
            "seconds": row.seconds,
            "size": row.size,
            "test_images": row.images,
            "weights": list(row.weights),
        }
        for row in rows
    ]


def _describe(over: Gain | None, metric: str) -> str:
    """A gain with its interval, or with the reason why it has none; empty where none was computed."""
    if over is None:
        return ""
    text = describe_gain(metric, over.mean, over.half)
    return f"{text} ({over.verdict})" if over.half is None or over.verdict == "no difference" else text
