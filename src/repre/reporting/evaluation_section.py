"""Builds the tables of evaluations: comparisons with their gains, and stored results."""

from collections.abc import Sequence
from typing import Any

from repre.evaluation.gains import all_equal, describe_gain, deviation
from repre.evaluation.result_groups import ResultGroup, distinguish, gain_over, group_results, is_tested_on_training
from repre.reporting.evaluated_weights import comparison_weights, weights_titles
from repre.reporting.formatting import format_number
from repre.reporting.measurements import images_tested
from repre.reporting.rendering import PageData, Section, section
from repre.reporting.run_data import Row, RunData, finite_number
from repre.reporting.titles import evaluation_title, result_title, write_result

BASELINES = {"over_random": "Gain over random init", "over_supervised": "Gain over supervised"}
"""Gains in compare.json, and their column's title."""
MAX_OTHER_METRICS = 12


def evaluation_section(runs: Sequence[RunData], page: PageData) -> Section | None:
    """Shows the tables of `repre compare`, each once, and every stored result."""
    comparisons = {comparison["file"]: comparison for run in runs for comparison in run.comparisons}
    stored = [stored_results(run) for run in runs]
    if not comparisons and not any(stored):
        page.left_out.append("Evaluations: no results are stored. Run repre eval or repre compare.")
        return None
    tables = [_comparison_table(comparison, runs) for comparison in comparisons.values()]
    lead = "Quality of the frozen or fine-tuned encoder on labeled data."
    with_settings = any(row["settings"] for rows in stored for row in rows)
    return section(
        "evaluations", "Evaluations", lead, comparisons=tables, runs=runs, stored=stored, with_settings=with_settings
    )


def _comparison_table(comparison: Row, runs: Sequence[RunData]) -> dict[str, Any]:
    """Gives one comparison: mean and standard deviation over seeds, and gains with their interval."""
    rows = [row for row in comparison["rows"] if isinstance(row, dict)]
    columns = {name: title for name, title in BASELINES.items() if any(isinstance(row.get(name), dict) for row in rows)}
    notes = comparison.get("notes")
    return {
        "seeds": finite_number(comparison.get("seeds")),
        "columns": list(columns.values()),
        "notes": [note for note in notes if isinstance(note, str)] if isinstance(notes, list) else [],
        "rows": [
            row | {"title": evaluation_title(row.get("evaluation")), "result_title": result_title(row.get("metric")),
                   "weights": comparison_weights(row, comparison, runs),
                   "result": mean_and_deviation(row.get("mean"), row.get("sd"), row.get("metric")),
                   "gains": [gain(row.get(name), row.get("metric")) for name in columns]}
            for row in rows
        ],
    }  # fmt: skip


def mean_and_deviation(average: object, deviation: object, metric: object) -> str:
    """Formats a mean and its standard deviation: as percentages where the metric is a share."""
    spread = f" ± {write_result(metric, deviation)}" if finite_number(deviation) is not None else ""
    return write_result(metric, average) + spread


def gain(values: object, metric: object) -> dict[str, str] | None:
    """Gives the text and the verdict of a gain; None if there is none."""
    if not isinstance(values, dict) or (average := finite_number(values.get("mean"))) is None:
        return None
    text = describe_gain(str(metric), average, finite_number(values.get("half")))
    return {"text": text, "verdict": str(values.get("verdict", ""))}


def stored_results(run: RunData) -> list[dict[str, Any]]:
    """Gives one row per evaluation, settings, data and weights: the main metric over distinct seeds, and the gain over the
    same model at random init at equal settings and seeds."""
    groups, untrained = group_results(run.evaluations), group_results(run.random_init)
    rows = []
    for group, weights, settings in zip(groups, weights_titles(run, groups), distinguish(groups)):
        first, main = group.first, group.main
        config = first["config"] if isinstance(first.get("config"), dict) else {}
        images = images_tested(first)
        names = dict.fromkeys(name for result in group.results for name in result["metrics"] if name != main)
        others = [
            f"{result_title(name)} {describe_seeds(values, name)}" for name in names if (values := group.metric(name))
        ]
        more = f" and {len(others) - MAX_OTHER_METRICS} more" if len(others) > MAX_OTHER_METRICS else ""
        rows.append(
            {
                "evaluation": evaluation_title(first.get("evaluation", first["file"])),
                "data": config.get("data") or first.get("start", ""),
                "metric": result_title(main),
                "weights": weights,
                "settings": settings,
                "result": describe_seeds(group.values, main),
                "images": format_number(images) if images is not None else "–",
                "seeds": len(group.seeds),
                "remarks": _remarks(group),
                "gain": _gain_over(group, untrained),
                "others": ", ".join(others[:MAX_OTHER_METRICS]) + more,
            }
        )
    return rows


def describe_seeds(values: Sequence[float], metric: str) -> str:
    """Gives the mean over seeds and the standard deviation; none where there is one seed or the seeds change nothing."""
    spread = deviation(values) if len(values) > 1 and not all_equal(values) else None
    return mean_and_deviation(sum(values) / len(values), spread, metric)


def _remarks(group: ResultGroup) -> list[str]:
    """Gives what to know about the seeds of a group."""
    remarks = ["the same at each"] if all_equal(group.values) else []
    if is_tested_on_training(group.first):
        remarks.append("tested on the training images")
    if group.not_numbers:
        remarks.append(f"left out, not a number: seed {', '.join(map(str, group.not_numbers))}")
    if group.conflicts:
        remarks.append(f"several results that differ, one is shown: seed {', '.join(map(str, group.conflicts))}")
    return remarks


def _gain_over(group: ResultGroup, untrained: Sequence[ResultGroup]) -> dict[str, str] | None:
    """Gives the gain over random init at equal seeds, with its number of pairs; None without a result to compare with."""
    if (found := gain_over(group, untrained, group.main)) is None:
        return None
    count = f"{found.pairs} pairs of seeds" if found.pairs > 1 else "1 pair of seeds"
    verdict = "" if found.verdict == "unknown: one seed" else f", {found.verdict}"
    return {
        "text": describe_gain(group.main, found.mean, found.half),
        "verdict": found.verdict,
        "remark": f"{count}{verdict}",
    }
