"""Reads a run's folder as plain data, without torch.

Files that are missing, damaged or unknown are left out with a note; only a folder that is no run raises (`UserError`).
"""

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import yaml

from repre.errors import UserError, near_names
from repre.evaluation.result_groups import EVALUATIONS, RANDOM_INIT
from repre.reporting.snapshot_arrays import read_arrays
from repre.training.failure_record import FailureRecord, killed, read_failure
from repre.utils.folder_lock import is_locked

Row = dict[str, Any]
RUN_FILES = ("config.yaml", "metrics.jsonl", "summary.json")
"""A folder with any of these is a run."""
MAX_UNREADABLE = 50
"""Lines of unreadable.txt that the page shows."""
VALIDATION_LINE = re.compile(r"^step (\d+): (.+)$")
"""A validation in log.txt."""


@dataclass(frozen=True)
class RunData:
    """The content of a run's folder."""

    path: Path
    name: str
    """The folder's name, or what tells it from the other runs on the page."""
    config: Row = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    """Training metrics by logged step, ascending; values that are not finite are None."""
    validations: list[Row] = field(default_factory=list)
    """Metrics by validation, ascending."""
    summary: Row | None = None
    """None while the run is not finished."""
    environment: Row = field(default_factory=dict)
    probes: Row = field(default_factory=dict)
    """By the metric of a probe on labels: its `data`, `train_images` and `test_images`."""
    alarms: list[Row] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    """The first lines of unreadable.txt: a file and the reason, separated by a tab."""
    unreadable_count: int = 0
    panels: dict[int, Path] = field(default_factory=dict)
    """Image files of the reconstruction panel by step."""
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    """Valid arrays of snapshots/features.npz (see `repre.training.monitoring.snapshots`)."""
    evaluations: list[Row] = field(default_factory=list)
    """Stored results of `repre eval`."""
    random_init: list[Row] = field(default_factory=list)
    """Stored results of the same model with random weights (``random:RUN``)."""
    comparisons: list[Row] = field(default_factory=list)
    """What `repre compare` wrote about this run."""
    notes: list[str] = field(default_factory=list)
    """Sentences about what could not be read."""
    failure: FailureRecord | None = None
    """Why the run ended early; None for one that finished or is running."""
    weights: str | None = None
    """SHA-256 of the exported encoder's weights, by which evaluations know it; only for a run with results."""
    running: bool = False
    """Whether a process trains it now."""

    @property
    def last_step(self) -> int:
        """The last step that was logged or validated; 0 before the first."""
        return max((int(row["step"]) for row in [*self.rows, *self.validations]), default=0)

    def series(self, name: str, *, validations: bool = False) -> tuple[list[float], list[float]]:
        """Gives the steps and values of a metric, where it is a finite number."""
        rows = self.validations if validations else self.rows
        finite = [row for row in rows if finite_number(row.get(name)) is not None]
        return [float(row["step"]) for row in finite], [float(row[name]) for row in finite]


def read_run(path: Path, *, comparisons: Sequence[Path] = ()) -> RunData:
    """Reads the folder of a run, finished or not.

    Args:
        path: the run's folder.
        comparisons: folders of `repre compare`, or their compare.json, besides those in or next to the run's folder.

    Raises:
        UserError: the folder is no run.
    """
    if not any((path / file).is_file() for file in RUN_FILES):
        if (run := _run_of(path)) is not None:
            raise UserError(f"{path} is only a part of a run; for its report: repre report {quote(str(run))}")
        siblings = path.parent.iterdir() if path.parent.is_dir() else ()
        runs = [sibling.name for sibling in siblings if any((sibling / file).is_file() for file in RUN_FILES)]
        raise UserError(f"{path} is not the folder of a run: it has no config.yaml{near_names(path.name, runs)}")
    notes: list[str] = []
    summary = _read_json(path / "summary.json", notes)
    rows = _read_json_lines(path / "metrics.jsonl", notes)
    validations = (summary or {}).get("validations")
    if not isinstance(validations, list):
        validations = _validations_in_log(path / "log.txt")
        if validations:
            notes.append("The run is not finished; its validations are taken from log.txt, which has four digits.")
    alarms = _read_json_lines(path / "alarms.jsonl", notes) or (summary or {}).get("alarms")
    unreadable = _read_text(path / "unreadable.txt").splitlines()
    rows, validations = _last_of_each_step(_with_step(rows)), _last_of_each_step(_with_step(validations))
    evaluations = _read_evaluations(path / EVALUATIONS, notes)
    exported = path / "encoder" / "model.safetensors"
    comparisons_read = _read_comparisons(path, comparisons, notes)
    locked = is_locked(path / ".lock") if summary is None else False
    return RunData(
        path=path,
        name=path.resolve().name or str(path),
        config=_read_config(path / "config.yaml", notes),
        rows=rows,
        validations=validations,
        summary=summary,
        environment=_read_json(path / "environment.json", notes) or {},
        probes=_read_json(path / "probes.json", notes) or {},
        alarms=_with_step(alarms),
        unreadable=unreadable[:MAX_UNREADABLE],
        unreadable_count=len(unreadable),
        panels=_find_panels(path / "panel"),
        arrays=read_arrays(path / "snapshots" / "features.npz", notes),
        evaluations=evaluations,
        weights=_file_hash(exported) if evaluations or comparisons_read else None,
        random_init=_read_evaluations(path / EVALUATIONS / RANDOM_INIT, notes),
        comparisons=comparisons_read,
        notes=notes,
        failure=_failure(path, [*rows, *validations], locked=locked) if summary is None and not locked else None,
        running=bool(locked),
    )


def _run_of(path: Path) -> Path | None:
    """The run that a path belongs to: a file or a folder in it, or RUN@NAME; None if there is none."""
    run, at, _ = str(path).rpartition("@")
    places = [*([Path(run)] if at else []), *path.parents[:2]]
    return next((place for place in places if any((place / file).is_file() for file in RUN_FILES)), None)


def _failure(path: Path, rows: Sequence[Row], *, locked: bool | None) -> FailureRecord | None:
    """Why a run that is not finished ended; None if that cannot be told (a folder without a lock)."""
    if (record := read_failure(path)) is not None or locked is None:
        return record
    last = max((int(row["step"]) for row in rows), default=0)
    return killed(path, step=last, saved=(path / "checkpoints" / "last.pt").is_file())


def finite_number(value: Any) -> float | None:
    """Gives a finite number as float; None for anything else, booleans included."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def without_nonfinite(value: Any) -> Any:
    """Replaces NaN, infinities and integers beyond a float's range by None in plain nested values."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, int) and abs(value) > 10**300:
        return None
    if isinstance(value, dict):
        return {str(key): without_nonfinite(item) for key, item in value.items()}
    return [without_nonfinite(item) for item in value] if isinstance(value, list | tuple) else value


# ------------------------------------------------------------------------------------------------------- files


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _file_hash(path: Path) -> str | None:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _read_json(path: Path, notes: list[str]) -> Row | None:
    if not path.is_file():
        return None
    try:
        content = without_nonfinite(json.loads(_read_text(path)))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        notes.append(f"{path.name} cannot be read and is left out.")
        return None
    return content


def _read_json_lines(path: Path, notes: list[str]) -> list[Row]:
    rows, damaged = [], 0
    for line in _read_text(path).splitlines():
        try:
            row = without_nonfinite(json.loads(line))
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            damaged += bool(line.strip())
    if damaged:
        lines = "1 line" if damaged == 1 else f"{damaged} lines"
        notes.append(f"{lines} of {path.name} cannot be read and {'is' if damaged == 1 else 'are'} left out.")
    return rows


def _read_config(path: Path, notes: list[str]) -> Row:
    try:
        content = without_nonfinite(yaml.safe_load(_read_text(path)))
    except (yaml.YAMLError, RecursionError):
        content = None
    if not isinstance(content, dict):
        notes.append("config.yaml cannot be read and is left out.")
        return {}
    return content


def _with_step(rows: Any) -> list[Row]:
    """Keeps the rows that have a step, in ascending order."""
    listed = rows if isinstance(rows, list) else []
    valid = [row for row in listed if isinstance(row, dict) and finite_number(row.get("step")) is not None]
    return sorted(valid, key=lambda row: row["step"])


def _last_of_each_step(rows: list[Row]) -> list[Row]:
    """Keeps the last row of each step: a resumed run logs some steps again."""
    return list({row["step"]: row for row in rows}.values())


def _validations_in_log(path: Path) -> list[Row]:
    """Parses lines such as ``step 50: rankme 9.25, raw pixels 0.25``."""
    validations = []
    for line in _read_text(path).splitlines():
        if match := VALIDATION_LINE.match(line):
            pairs = (pair.rpartition(" ")[::2] for pair in match[2].split(", "))
            metrics = {name: value for name, text in pairs if (value := _parse_number(text)) is not None}
            validations.append({"step": int(match[1]), **metrics})
    return validations


def _parse_number(text: str) -> float | None:
    try:
        return finite_number(float(text))
    except ValueError:
        return None


def _find_panels(folder: Path) -> dict[int, Path]:
    panels = {}
    for path in folder.glob("step-*.png"):
        if (digits := path.stem.removeprefix("step-")).isdecimal():
            panels[int(digits)] = path
    return dict(sorted(panels.items()))


def _read_evaluations(folder: Path, notes: list[str]) -> list[Row]:
    results = []
    for path in sorted(folder.glob("*.json")):
        content = _read_json(path, notes)
        if content is None or not isinstance(content.get("metrics"), dict):
            continue
        if str(content.get("main")) in content["metrics"]:
            results.append({**content, "file": path.name})
    return results


def _read_comparisons(run: Path, requested: Sequence[Path], notes: list[str]) -> list[Row]:
    """Reads the comparisons that were requested, those in the run's folder, and those next to it that are about the run."""
    wanted = [path / "compare.json" if path.is_dir() else path for path in requested]
    wanted += [run / "compare.json", *sorted(run.glob("*/compare.json"))]
    siblings = [path for path in sorted(run.parent.glob("*/compare.json")) if path not in wanted]
    comparisons: dict[Path, Row] = {}
    for path in [*wanted, *siblings]:
        content = _read_json(path, notes)
        if content is None or not isinstance(content.get("rows"), list) or path.resolve() in comparisons:
            continue
        content["file"] = str(path)
        if path in wanted or results_inside(content, run):
            comparisons[path.resolve()] = content
    return list(comparisons.values())


def results_inside(comparison: Row, run: Path) -> list[Row]:
    """Gives the results of a comparison that are stored in the run's folder, but those of the model at random init."""
    results, run = comparison.get("results"), run.resolve()
    folder = Path(str(comparison["file"])).parent if (finite_number(comparison.get("format")) or 1) > 1 else Path()
    inside = []
    for result in results if isinstance(results, list) else []:
        if isinstance(result, dict) and run in (path := (folder / str(result.get("path", ""))).resolve()).parents:
            inside += [result] if path.parent.name != RANDOM_INIT else []
    return inside
