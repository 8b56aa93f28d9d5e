"""Which weights a stored result is about: the run's last ones, a checkpoint's or earlier ones; and how they are called."""

import re
from collections.abc import Sequence
from pathlib import PurePath

from repre.evaluation.result_groups import Result, ResultGroup, number, weights_hash, weights_key
from repre.reporting.measurements import plain_data, probe_data
from repre.reporting.run_data import Row, RunData, results_inside

NO_HASH = "not known: the result has no hash of them"


def last_weights(run: RunData) -> str | None:
    """The `weights_key` of the run's last weights: of its exported encoder, or, while it is not finished, of the results at
    the highest step. None where nothing tells."""
    if run.weights is not None:
        return run.weights
    results = [result for result in run.evaluations if checkpoint_name(result) in ("", "last")]
    newest = max((step_of(result) for result in results), default=-1)
    keys = {weights_key(result) for result in results if step_of(result) == newest}
    return keys.pop() if len(keys) == 1 else None


def is_last(run: RunData, result: Result) -> bool:
    """Whether a stored result is about the run's last weights."""
    return weights_key(result) == last_weights(run)


def checkpoint_name(result: Result) -> str:
    """The checkpoint that was evaluated, such as best for ``RUN/checkpoints/best.pt`` and ``RUN@best``; empty for a run."""
    start = str(result.get("start"))
    if start.endswith(".pt"):
        return PurePath(start).stem
    match = re.search(r"@([^/@]+)$", start)
    return match[1] if match else ""


def step_of(result: Result) -> int:
    """The step of the evaluated weights; -1 if it is not known."""
    step = number(result.get("step"))
    return -1 if step is None else int(step)


def weights_titles(run: RunData, groups: Sequence[ResultGroup]) -> list[str]:
    """Names the weights of every group, no two different ones alike: by checkpoint and step, else by their hash."""
    titles = [_title(run, group) for group in groups]
    keys = [weights_key(group.first) for group in groups]
    alike = {title for title in titles if len({key for key, other in zip(keys, titles) if other == title}) > 1}
    return [f"{title}, {_short(group)}" if title in alike else title for title, group in zip(titles, groups)]


def _title(run: RunData, group: ResultGroup) -> str:
    """The name of one group's weights; a checkpoint that was chosen by the same labels says so."""
    if not weights_hash(group.first):
        return NO_HASH if run.weights is not None else checkpoint_name(group.first) or "last"
    step = max(map(step_of, group.results))
    at = f"step {step}" if step >= 0 else ""
    if is_last(run, group.first):
        return f"last, {at}" if at else "last"
    names = sorted({name for result in group.results if (name := checkpoint_name(result)) not in ("", "last")})
    title = " and ".join(names) or "an earlier state"
    title += f", {at or _short(group)}"
    if any(name.startswith("best") for name in names) and (metric := _chosen_by(run, group)):
        title += f", chosen by {metric} on these labels"
    return title


def _chosen_by(run: RunData, group: ResultGroup) -> str:
    """The probe that chose the best checkpoint, if it saw the labels that a group was tested on; else empty."""
    runtime, config = run.config.get("runtime"), group.first.get("config")
    metric = str(runtime.get("best_metric")) if isinstance(runtime, dict) else ""
    data = plain_data(config.get("data")) if isinstance(config, dict) else ""
    return metric if metric.startswith("probe/") and data and data == probe_data(run, metric) else ""


def _short(group: ResultGroup) -> str:
    return weights_hash(group.first)[:8] or "no hash"


def comparison_weights(row: Row, comparison: Row, runs: Sequence[RunData]) -> str:
    """Which weights of one of the runs a row of a comparison is about, where they are not the last; else empty."""
    for run in runs:
        results = results_of_row(row, comparison, run)
        if results and not is_about_last(row, comparison, run):
            steps = sorted({step for result in results if (step := step_of(result)) >= 0})
            at = f", step {' and '.join(map(str, steps))}" if steps else ""
            names = sorted({name for result in results if (name := checkpoint_name(result)) not in ("", "last")})
            return (" and ".join(names) or "earlier weights") + at
    return ""


def results_of_row(row: Row, comparison: Row, run: RunData) -> list[Row]:
    """The results of a comparison that a row is made of, if they are those of a run: stored in its folder, or of its
    weights."""
    specs = [spec for spec in str(row.get("start")).split(",") if not spec.startswith("random:")]
    results = comparison.get("results")
    listed = [result for result in (results if isinstance(results, list) else []) if isinstance(result, dict)]
    mine = [result for result in listed if run.weights is not None and result.get("weights") == run.weights]
    return [result for result in [*results_inside(comparison, run.path), *mine] if str(result.get("start")) in specs]


def is_about_last(row: Row, comparison: Row, run: RunData) -> bool:
    """Whether a row of a comparison is about the run's last weights; a comparison without hashes is taken at its word."""
    results = results_of_row(row, comparison, run)
    return bool(results) and all(_is_last_entry(result, run) for result in results)


def _is_last_entry(entry: Row, run: RunData) -> bool:
    """Whether an entry of a comparison's results is about the last weights, by its own hash or by that of its file."""
    name = PurePath(str(entry.get("path"))).name
    stored = next((result for result in run.evaluations if result.get("file") == name), {})
    found = entry.get("weights") or weights_hash(stored)
    return not found or is_last(run, {"start": entry.get("start"), "encoder": {"weights": found}})
