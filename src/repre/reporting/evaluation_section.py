"""Builds the tables of evaluations: comparisons with their gains, and stored results."""

import json
from collections.abc import Sequence
from itertools import groupby
from statistics import mean, stdev
from typing import Any

from repre.evaluation.metric_units import describe_value, is_share
from repre.reporting.formatting import percent
from repre.reporting.rendering import PageData, Section, section
from repre.reporting.run_data import Row, RunData, finite_number

BASELINES = {"over_random": "Gain over random init", "over_supervised": "Gain over supervised"}
"""Gains in compare.json, and their column's title."""
MAX_OTHER_METRICS = 12


def evaluation_section(runs: Sequence[RunData], page: PageData) -> Section | None:
    """Shows the tables of `repre compare`, each once, and every stored result."""
    comparisons = {comparison["file"]: comparison for run in runs for comparison in run.comparisons}
    stored = [_stored_results(run.evaluations, run.random_init) for run in runs]
    if not comparisons and not any(stored):
        page.left_out.append("Evaluations: no results are stored. Run repre eval or repre compare.")
        return None
    tables = [_comparison_table(comparison) for comparison in comparisons.values()]
    lead = "Quality of the frozen or fine-tuned encoder on labeled data."
    return section("evaluations", "Evaluations", lead, comparisons=tables, runs=runs, stored=stored)


def _comparison_table(comparison: Row) -> dict[str, Any]:
    """Gives one comparison: mean and standard deviation over seeds, and gains with their interval."""
    rows = [row for row in comparison["rows"] if isinstance(row, dict)]
    columns = {name: title for name, title in BASELINES.items() if any(isinstance(row.get(name), dict) for row in rows)}
    return {
        "seeds": finite_number(comparison.get("seeds")),
        "columns": list(columns.values()),
        "rows": [
            row | {"result": mean_and_deviation(row.get("mean"), row.get("sd"), str(row.get("metric"))),
                   "gains": [gain(row.get(name), str(row.get("metric"))) for name in columns]}
            for row in rows
        ],
    }  # fmt: skip


def mean_and_deviation(average: object, deviation: object, metric: str) -> str:
    """Formats a mean and its standard deviation as percentages, or in the metric's unit."""
    return _value(metric, average) + (f" ± {_value(metric, deviation)}" if finite_number(deviation) is not None else "")


def _value(metric: str, value: object) -> str:
    """Formats a metric: a share as a percentage, others with their unit."""
    number = finite_number(value)
    return percent(value) if is_share(metric) or number is None else describe_value(metric, number)


def gain(values: object, metric: str) -> dict[str, str] | None:
    """Gives the text and the verdict of a gain; None if there is none."""
    if not isinstance(values, dict) or (average := finite_number(values.get("mean"))) is None:
        return None
    half_width = finite_number(values.get("half"))
    factor = 100 if is_share(metric) else 1
    interval = f" ± {factor * half_width:.2f}" if half_width is not None else ""
    return {"text": f"{factor * average:+.2f}{interval}", "verdict": str(values.get("verdict", ""))}


def _stored_results(results: Sequence[Row], random_init: Sequence[Row]) -> list[dict[str, Any]]:
    """Gives one row per evaluation and settings: the main metric over the seeds, and the gain over random init.

    The gain is the mean difference to results of the same model with random weights at equal settings and seeds.
    """
    untrained = {_settings_and_seed(result): result for result in random_init}
    rows = []
    for _, group in groupby(sorted(results, key=_settings), key=_settings):
        same = list(group)
        first, main = same[0], str(same[0]["main"])
        values = [value for result in same if (value := finite_number(result["metrics"].get(main))) is not None]
        gains = _gains(same, untrained, main)
        factor = 100 if is_share(main) else 1
        others = [f"{name} {_value(name, value)}" for name, value in first["metrics"].items() if name != main]
        settings = first["config"] if isinstance(first.get("config"), dict) else {}
        rows.append(
            {
                "evaluation": first.get("evaluation", first["file"]),
                "data": settings.get("data") or first.get("start", ""),
                "metric": main,
                "result": mean_and_deviation(
                    mean(values) if values else None, stdev(values) if len(values) > 1 else None, main
                ),
                "seeds": len(same),
                "gain": f"{factor * mean(gains):+.2f} ({len(gains)} seed{'s' * (len(gains) > 1)})" if gains else "–",
                "others": ", ".join(others[:MAX_OTHER_METRICS]),
            }
        )
    return rows


def _gains(results: Sequence[Row], untrained: dict[tuple[str, float | None], Row], metric: str) -> list[float]:
    """Gives the differences to the untrained model, for the seeds of which both results are stored."""
    gains = []
    for result in results:
        reference = untrained.get(_settings_and_seed(result))
        trained_value = finite_number(result["metrics"].get(metric))
        untrained_value = finite_number(reference["metrics"].get(metric)) if reference else None
        if trained_value is not None and untrained_value is not None:
            gains.append(trained_value - untrained_value)
    return gains


def _settings(result: Row) -> str:
    """Gives a key of what defines an evaluation besides the encoder and the seed."""
    config = result["config"] if isinstance(result.get("config"), dict) else {}
    settings = {name: value for name, value in config.items() if name != "seed"}
    return json.dumps([result.get("evaluation"), settings], sort_keys=True, default=str)


def _settings_and_seed(result: Row) -> tuple[str, float | None]:
    return _settings(result), finite_number(result.get("seed"))
