"""Builds the tables of evaluations: comparisons with their gains, and stored results."""

import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from repre.reporting.formatting import format_number
from repre.reporting.measurements import images_tested, is_final, weights_hash
from repre.reporting.rendering import PageData, Section, section
from repre.reporting.run_data import Row, RunData, finite_number
from repre.reporting.titles import evaluation_title, result_is_share, result_title, write_result

BASELINES = {"over_random": "Gain over random init", "over_supervised": "Gain over supervised"}
"""Gains in compare.json, and their column's title."""
MAX_OTHER_METRICS = 12


def evaluation_section(runs: Sequence[RunData], page: PageData) -> Section | None:
    """Shows the tables of `repre compare`, each once, and every stored result."""
    comparisons = {comparison["file"]: comparison for run in runs for comparison in run.comparisons}
    stored = [_stored_results(run) for run in runs]
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
            row | {"title": evaluation_title(row.get("evaluation")), "result_title": result_title(row.get("metric")),
                   "result": mean_and_deviation(row.get("mean"), row.get("sd"), row.get("metric")),
                   "gains": [gain(row.get(name), row.get("metric")) for name in columns]}
            for row in rows
        ],
    }  # fmt: skip


def mean_and_deviation(average: object, deviation: object, metric: object) -> str:
    """Formats a mean and its standard deviation: as percentages where the metric is a share."""
    spread = f" ± {write_result(metric, deviation)}" if finite_number(deviation) is not None else ""
    return write_result(metric, average) + spread


def gained(difference: float, metric: object) -> str:
    """Formats a difference, in points where the metric is a share."""
    return f"{100 * difference:+.2f}" if result_is_share(metric) else f"{difference:+.3g}"


def gain(values: object, metric: object) -> dict[str, str] | None:
    """Gives the text and the verdict of a gain; None if there is none."""
    if not isinstance(values, dict) or (average := finite_number(values.get("mean"))) is None:
        return None
    half_width = finite_number(values.get("half"))
    interval = f" ± {gained(half_width, metric).lstrip('+')}" if half_width is not None else ""
    return {"text": f"{gained(average, metric)}{interval}", "verdict": str(values.get("verdict", ""))}


def _stored_results(run: RunData) -> list[dict[str, Any]]:
    """Gives one row per evaluation, settings and weights: the main metric over distinct seeds, and gains over random init.

    The gain is the mean difference to results of the same model with random weights at equal settings and seeds.
    """
    untrained = {_settings_and_seed(result): result for result in run.random_init}
    rows = []

    def key(result: Row) -> tuple[str, str, str]:
        return _settings(result), str(result["main"]), weights_hash(result) or str(result.get("start"))

    for _, group in groupby(sorted(run.evaluations, key=key), key=key):
        same = list({str(finite_number(result.get("seed"))): result for result in group}.values())
        first, main = same[0], str(same[0]["main"])
        values = [value for result in same if (value := finite_number(result["metrics"].get(main))) is not None]
        gains = _gains(same, untrained, main)
        others = [f"{result_title(n)} {write_result(n, v)}" for n, v in first["metrics"].items() if n != main]
        settings = first["config"] if isinstance(first.get("config"), dict) else {}
        images = images_tested(first)
        rows.append(
            {
                "evaluation": evaluation_title(first.get("evaluation", first["file"])),
                "data": settings.get("data") or first.get("start", ""),
                "metric": result_title(main),
                "weights": _weights_title(run, first),
                "result": mean_and_deviation(
                    mean(values) if values else None, stdev(values) if len(values) > 1 else None, main
                ),
                "images": format_number(images) if images is not None else "–",
                "seeds": len(same),
                "gain": f"{gained(mean(gains), main)} ({len(gains)} seed{'s' * (len(gains) > 1)})" if gains else "–",
                "others": ", ".join(others[:MAX_OTHER_METRICS]),
            }
        )
    return rows


def _weights_title(run: RunData, result: Row) -> str:
    """Gives the weights that a result is about: the last, those of a checkpoint, or earlier ones by their hash."""
    start, found = Path(str(result.get("start"))), weights_hash(result)
    if start.suffix == ".pt":
        return start.name
    if is_final(run, result):
        return "last"
    return f"other ({found[:8]})"


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
