"""The same evaluations and seeds for several encoders: a table of mean and spread, and the gain over random init.

A gain is the mean difference at equal seeds, with the 95 % interval of Student's t. If the interval contains 0, the table
says "no difference". With one seed, or if the seeds change nothing, it makes no claim.
"""

import csv
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from repre.errors import UserError
from repre.evaluation.metric_units import is_share, metric_kind
from repre.evaluation.runner import evaluate
from repre.models.resolve import ResolvedEncoder, resolve_encoder
from repre.utils.io import write_atomically, write_json

T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
       2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042)  # fmt: skip
"""Two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom."""


@dataclass(frozen=True)
class Gain:
    """Difference between two encoders in one metric.

    Attributes:
        mean: of the differences at equal seeds.
        half: half the width of the 95 % interval; None if the seeds allow none.
        verdict: better, worse, no difference, or unknown with the reason.
    """

    mean: float
    half: float | None
    verdict: str


def gain(values: Sequence[float], baseline: Sequence[float], *, higher_is_better: bool = True) -> Gain:
    """Returns the gain of `values` over `baseline`, a metric at the same seeds in the same order.

    Raises:
        ValueError: they are not equally many.
    """
    differences = [value - base for value, base in zip(values, baseline, strict=True)]
    count, average = len(differences), sum(differences) / len(differences)
    if count < 2:
        return Gain(average, None, "unknown: one seed")
    deviation = _deviation(differences)
    if deviation == 0 and average != 0:
        return Gain(average, None, "unknown: the seeds change nothing")
    half = (T95[count - 2] if count - 2 < len(T95) else 1.96) * deviation / math.sqrt(count)
    if abs(average) <= half:
        return Gain(average, half, "no difference")
    return Gain(average, half, "better" if (average > 0) == higher_is_better else "worse")


@dataclass(frozen=True)
class Row:
    """One encoder in one metric of one evaluation.

    Attributes:
        evaluation, metric, encoder: names.
        values: the metric at seeds 0, 1, ...
        over_random, over_supervised: gains; None for the baseline itself, or without a supervised encoder.
        seconds: average duration of one run of the evaluation, which gives all its metrics.
    """

    evaluation: str
    metric: str
    encoder: str
    values: tuple[float, ...]
    over_random: Gain | None
    over_supervised: Gain | None
    seconds: float

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return sum(self.values) / len(self.values)

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds; None for one seed."""
        return _deviation(self.values) if len(self.values) > 1 else None


def compare(
    encoders: Sequence[str],
    configs: dict[str, Any],
    *,
    seeds: int,
    out: Path,
    supervised: str | None = None,
    log: Callable[[str], None] = print,
) -> list[Row]:
    """Evaluates every encoder with every config and seed; writes compare.md, .csv and .json.

    Args:
        encoders: specs for `resolve_encoder`. Specs joined by commas are replicas of one encoder, such as runs with
            different seeds; the seeds take turns. Without a random:NAME, the first model at random init is added.
        configs: configs by the names of their evaluations; their seeds are replaced.
        seeds: number of seeds; every evaluation runs with seeds 0, 1, ..., seeds - 1.
        out: folder for the tables.
        supervised: one of `encoders`; the gain over it is computed as well.
        log: prints a message.

    Returns:
        One row per evaluation, metric and encoder.

    Raises:
        UserError: a mistake in an encoder or a setting, found before the first evaluation; or `out` cannot be written.
    """
    if seeds < 1:
        raise UserError(f"--seeds must be at least 1, not {seeds}")
    if not configs:
        raise UserError("--eval names no evaluation")
    names = list(dict.fromkeys(encoders))
    if not names:
        raise UserError("name at least one encoder")
    random = next((name for name in names if name.startswith("random:")), None)
    if random is None:
        random = f"random:{split_replicas(names[0])[0].removeprefix('hub:')}"
        log(f"added {random}, to compute the gain over random init")
        names.append(random)
    if supervised is not None and supervised not in names:
        raise UserError(f"--supervised {supervised} is not one of the encoders: {', '.join(names)}")
    replicas = _resolve(names)
    results: dict[tuple[str, str], list[dict[str, Any]]] = {}
    count = len(configs) * len(names) * seeds
    for evaluation, config in configs.items():
        for name in names:
            for seed in range(seeds):
                resolved = replicas[name][seed % len(replicas[name])]
                number = 1 + sum(map(len, results.values()))
                log(f"{number}/{count}: {evaluation} of {resolved.spec}, seed {seed}")
                result = evaluate(evaluation, resolved, replace(config, seed=seed), reuse=True, keep_model=False)
                results.setdefault((evaluation, name), []).append(result)
    rows = build_rows(results, random=random, supervised=supervised)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written ({error.strerror})") from error
    write_atomically(out / "compare.md", lambda file: file.write(markdown(rows, seeds=seeds).encode()))
    write_atomically(out / "compare.csv", lambda file: file.write(as_csv(rows).encode()))
    sources = [{"path": result["path"], "start": result["start"]} for runs in results.values() for result in runs]
    write_json(out / "compare.json", {"format": 1, "seeds": seeds, "rows": as_dicts(rows), "results": sources})
    return rows


def split_replicas(name: str) -> list[str]:
    """Splits specs that commas join; commas within brackets belong to the arguments of a timm model."""
    return re.split(r",(?![^\[]*\])", name)


def _resolve(names: Sequence[str]) -> dict[str, list[ResolvedEncoder]]:
    """The replicas of every encoder. If one was trained with a declared pixel range, those without one get it too."""
    replicas = {name: [resolve_encoder(spec) for spec in split_replicas(name)] for name in names}
    ranges = [resolved.value_range for members in replicas.values() for resolved in members if resolved.value_range]
    declared = next(iter(ranges), None)
    return {
        name: [replace(resolved, value_range=resolved.value_range or declared) for resolved in members]
        for name, members in replicas.items()
    }


def build_rows(
    results: dict[tuple[str, str], list[dict[str, Any]]], *, random: str, supervised: str | None
) -> list[Row]:
    """Returns a row per metric that all encoders of an evaluation have, the main metric first.

    Args:
        results: stored results over the seeds, by evaluation and encoder.
        random, supervised: names of the encoders that gains are computed over.
    """
    rows = []
    for evaluation in dict.fromkeys(name for name, _ in results):
        by_encoder = {encoder: runs for (name, encoder), runs in results.items() if name == evaluation}
        first = next(iter(by_encoder.values()))[0]
        shared = set.intersection(*(set(result["metrics"]) for runs in by_encoder.values() for result in runs))
        for metric in [first["main"], *sorted(shared - {first["main"]})]:
            kind = metric_kind(metric)
            higher_is_better = first["higher_is_better"] if kind is None else kind.higher_is_better
            values = {
                encoder: [float(result["metrics"][metric]) for result in runs] for encoder, runs in by_encoder.items()
            }
            for encoder, runs in by_encoder.items():
                over_random, over_supervised = (
                    gain(values[encoder], values[baseline], higher_is_better=higher_is_better)
                    if baseline is not None and baseline != encoder
                    else None
                    for baseline in (random, supervised)
                )
                seconds = sum(result["seconds"] for result in runs) / len(runs)
                rows.append(
                    Row(evaluation, metric, encoder, tuple(values[encoder]), over_random, over_supervised, seconds)
                )
    return rows


def markdown(rows: Sequence[Row], *, seeds: int) -> str:
    """Returns the table as Markdown: in percent, mean and standard deviation over seeds, gains in points."""
    supervised = any(row.over_supervised for row in rows)
    head = ["evaluation", "metric", "encoder", "mean ± sd", "gain over random init"]
    head += ["gain over supervised"] * supervised + ["minutes"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        factor = 100 if is_share(row.metric) else 1
        deviation = f" ± {factor * row.deviation:.2f}" if row.deviation is not None else ""
        kind = metric_kind(row.metric)
        metric = f"{row.metric} ({kind.unit or 'number'})" if kind else row.metric
        cells = [row.evaluation, metric, row.encoder.replace("|", "\\|"), f"{factor * row.mean:.2f}{deviation}"]
        gains = [row.over_random] + [row.over_supervised] * supervised
        cells += [_describe(over, factor) for over in gains]
        lines.append("| " + " | ".join([*cells, f"{row.seconds / 60:.1f}"]) + " |")
    spread = f"{seeds} seeds" if seeds > 1 else "one seed, so no standard deviation"
    shares = "In percent" if all(is_share(row.metric) for row in rows) else "In percent where no unit is named"
    note = f"{shares}; {spread}; gains at equal seeds with their 95 % interval; minutes of one run."
    return "\n".join(lines) + f"\n\n{note}\n"


def as_csv(rows: Sequence[Row]) -> str:
    """Returns the table as CSV, with the gain over random init."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    gain_columns = ("gain_over_random", "interval", "verdict")
    writer.writerow(("evaluation", "metric", "start", "mean", "sd", *gain_columns, "seconds", "values"))
    for row in rows:
        over = row.over_random
        gains = (over.mean, over.half, over.verdict) if over else (None, None, None)
        values = " ".join(map(str, row.values))
        writer.writerow((row.evaluation, row.metric, row.encoder, row.mean, row.deviation, *gains, row.seconds, values))
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
        }
        for row in rows
    ]


def _describe(over: Gain | None, factor: int) -> str:
    """A gain in points (factor 100) or in the metric's unit (factor 1), with its interval or the reason why it has none."""
    if over is None:
        return ""
    points = f"{factor * over.mean:+.2f}"
    if over.half is None:
        return f"{points} ({over.verdict})"
    points += f" ± {factor * over.half:.2f}"
    return f"{points} (no difference)" if over.verdict == "no difference" else points


def _deviation(values: Sequence[float]) -> float:
    """Sample standard deviation."""
    average = sum(values) / len(values)
    return math.sqrt(sum((value - average) ** 2 for value in values) / (len(values) - 1))
