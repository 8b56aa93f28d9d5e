"""A run's folder as plain data. Whatever is missing, torn or foreign is left out with a word; nothing here raises but
`UserError`, for a folder that holds no run."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from repre.errors import UserError, near_names
from repre.reporting.snapshot_arrays import read_arrays

Row = dict[str, Any]
MARKS = ("config.yaml", "metrics.jsonl", "summary.json")
"""Any of these makes a folder a run."""
LINES = 50
"""Lines of unreadable.txt that are shown."""
LOOK = re.compile(r"^step (\d+): (.+)$")


@dataclass(frozen=True)
class RunData:
    """What a run's folder says.

    Attributes:
        rows: metrics, one per logged step, ascending; figures that are not finite are None.
        validations: figures of the checks, ascending.
        summary: None while the run is not finished.
        panels: file by step.
        arrays: of snapshots/features.npz (see repre.training.monitoring.snapshots); only those of the right type and shape.
        evaluations: stored results; chance: those of the same model without training, where they were evaluated from
            the same working folder.
        comparisons: what repre compare wrote about this run.
        notes: what could not be read, in words.
    """

    path: Path
    name: str
    config: Row = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    validations: list[Row] = field(default_factory=list)
    summary: Row | None = None
    environment: Row = field(default_factory=dict)
    alarms: list[Row] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    unreadable_count: int = 0
    panels: dict[int, Path] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    evaluations: list[Row] = field(default_factory=list)
    chance: list[Row] = field(default_factory=list)
    comparisons: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def column(self, name: str, *, validations: bool = False) -> tuple[list[float], list[float]]:
        """Steps and values of a figure where it is a finite number."""
        rows = [r for r in (self.validations if validations else self.rows) if number(r.get(name)) is not None]
        return [float(r["step"]) for r in rows], [float(r[name]) for r in rows]


def read_run(path: Path, *, comparisons: Sequence[Path] = ()) -> RunData:
    """Reads the folder of a run, finished or not.

    Args:
        comparisons: folders of `repre compare`, or their compare.json, besides those beside the run.
    """
    if not any((path / mark).is_file() for mark in MARKS):
        beside = path.parent.iterdir() if path.parent.is_dir() else ()
        runs = [p.name for p in beside if any((p / mark).is_file() for mark in MARKS)]
        raise UserError(f"{path} holds no run of repre (no config.yaml){near_names(path.name, runs)}")
    notes: list[str] = []
    summary = _json(path / "summary.json", notes)
    rows = _lines(path / "metrics.jsonl", notes)
    validations = (summary or {}).get("validations")
    if not isinstance(validations, list):
        validations = _looks_of_log(path / "log.txt")
        if validations:
            notes.append("The run is not finished: its looks are taken from log.txt, to four digits.")
    listed = _text(path / "unreadable.txt").splitlines()
    return RunData(
        path=path,
        name=path.resolve().name or str(path),
        config=_config(path / "config.yaml", notes),
        rows=_ordered(rows),
        validations=_ordered(validations),
        summary=summary,
        environment=_json(path / "environment.json", notes) or {},
        alarms=_ordered(_lines(path / "alarms.jsonl", notes) or (summary or {}).get("alarms") or [], unique=False),
        unreadable=listed[:LINES],
        unreadable_count=len(listed),
        panels=_panels(path / "panel"),
        arrays=read_arrays(path / "snapshots" / "features.npz", notes),
        evaluations=_evaluations(path / "evaluations", notes),
        chance=_chance(path, notes),
        comparisons=_comparisons(path, comparisons, notes),
        notes=notes,
    )


def number(value: Any) -> float | None:
    """A finite number as float; None for anything else, truth values among it."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def finite(value: Any) -> Any:
    """Plain values with None in the place of what is no finite number: NaN, infinities, and whole numbers without end."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, int) and abs(value) > 10**300:  # no float holds it
        return None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


# ------------------------------------------------------------------------------------------------------- files


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _json(path: Path, notes: list[str]) -> Row | None:
    if not path.is_file():
        return None
    try:
        content = finite(json.loads(_text(path)))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        notes.append(f"{path.name} cannot be read and is left out.")
        return None
    return content


def _lines(path: Path, notes: list[str]) -> list[Row]:
    rows, torn = [], 0
    for line in _text(path).splitlines():
        try:
            row = finite(json.loads(line))
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            torn += bool(line.strip())
    if torn:
        notes.append(
            f"{torn} line{'s' * (torn > 1)} of {path.name} cannot be read and {'are' if torn > 1 else 'is'} left out."
        )
    return rows


def _ordered(rows: Any, *, unique: bool = True) -> list[Row]:
    """Rows that have a step, ascending; if `unique`, of several of one step the last, which a restart wrote."""
    listed = rows if isinstance(rows, list) else []
    placed = [row for row in listed if isinstance(row, dict) and number(row.get("step")) is not None]
    chosen = list({row["step"]: row for row in placed}.values()) if unique else placed
    return sorted(chosen, key=lambda row: row["step"])


def _config(path: Path, notes: list[str]) -> Row:
    try:
        content = finite(yaml.safe_load(_text(path)))
    except (yaml.YAMLError, RecursionError):
        content = None
    if not isinstance(content, dict):
        notes.append("config.yaml cannot be read and is left out.")
        return {}
    return content


def _looks_of_log(path: Path) -> list[Row]:
    validations = []
    for line in _text(path).splitlines():
        if found := LOOK.match(line):
            pairs = (part.rpartition(" ")[::2] for part in found[2].split(", "))
            figures = {name: value for name, word in pairs if (value := _float(word)) is not None}
            validations.append({"step": int(found[1]), **figures})
    return validations


def _float(word: str) -> float | None:
    try:
        return number(float(word))
    except ValueError:
        return None


def _panels(folder: Path) -> dict[int, Path]:
    found = {}
    for path in folder.glob("step-*.png"):
        if path.stem.removeprefix("step-").isdecimal():
            found[int(path.stem.removeprefix("step-"))] = path
    return dict(sorted(found.items()))


def _evaluations(folder: Path, notes: list[str]) -> list[Row]:
    found = []
    for path in sorted(folder.glob("*.json")):
        content = _json(path, notes)
        if (
            content is not None
            and isinstance(content.get("metrics"), dict)
            and str(content.get("main")) in content["metrics"]
        ):
            found.append({**content, "file": path.name})
    return found


def _chance(run: Path, notes: list[str]) -> list[Row]:
    """Results of ``random:RUN``, which evaluations keep under the working folder (`results_folder` of the registry)."""
    found = [one for folder in sorted(Path("evaluations").glob("random-*")) for one in _evaluations(folder, notes)]
    return [one for one in found if Path(str(one.get("start", "")).removeprefix("random:")).resolve() == run.resolve()]


def _comparisons(run: Path, given: Sequence[Path], notes: list[str]) -> list[Row]:
    """Comparisons named by the caller, in the run's folder, or beside it and about this run."""
    named = [p / "compare.json" if p.is_dir() else p for p in given]
    own = [run / "compare.json", *sorted(run.glob("*/compare.json"))]
    beside = sorted(run.parent.glob("*/compare.json"))
    found: dict[Path, Row] = {}
    for path in [*named, *own, *beside]:
        content = _json(path, notes)
        if content is None or not isinstance(content.get("rows"), list) or path.resolve() in found:
            continue
        if path in beside and path not in named and path not in own and not _about(content, run):
            continue
        found[path.resolve()] = {**content, "file": str(path)}
    return list(found.values())


def _about(comparison: Row, run: Path) -> bool:
    results = comparison.get("results")
    paths = [str(r.get("path", "")) for r in results if isinstance(r, dict)] if isinstance(results, list) else []
    return any(run.resolve() in Path(path).resolve().parents for path in paths)
