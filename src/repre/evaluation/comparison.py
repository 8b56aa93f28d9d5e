"""The same head, recipe and seeds for every start: a table of mean and spread, and the gain over chance.

A gain is the mean of the differences at equal seeds, with the 95 % interval of Student's t. Where the interval holds 0
the table says "no difference"; where there is one seed, or the seeds change nothing, it claims nothing.
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
from repre.evaluation.runner import evaluate
from repre.models.resolve import ResolvedEncoder, resolve_encoder
from repre.utils.io import write_atomically, write_json

T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
       2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042)  # fmt: skip
"""Two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom."""


@dataclass(frozen=True)
class Gain:
    """Difference of two starts in one figure.

    Attributes:
        mean: of the differences at equal seeds.
        half: half of the 95 % interval; None where the seeds allow none.
        verdict: better, worse, no difference, or unknown.
    """

    mean: float
    half: float | None
    verdict: str


def gain(mine: Sequence[float], theirs: Sequence[float], *, higher_is_better: bool = True) -> Gain:
    """The gain of `mine` over `theirs`, figures at the same seeds in the same order."""
    differences = [a - b for a, b in zip(mine, theirs, strict=True)]
    count = len(differences)
    mean = sum(differences) / count
    if count < 2:
        return Gain(mean, None, "unknown: one seed")
    deviation = math.sqrt(sum((d - mean) ** 2 for d in differences) / (count - 1))
    if deviation == 0 and mean != 0:
        return Gain(mean, None, "unknown: the seeds change nothing")
    half = (T95[count - 2] if count - 2 < len(T95) else 1.96) * deviation / math.sqrt(count)
    if abs(mean) <= half:
        return Gain(mean, half, "no difference")
    return Gain(mean, half, "better" if (mean > 0) == higher_is_better else "worse")


@dataclass(frozen=True)
class Row:
    """One start in one figure of one evaluation."""

    evaluation: str
    metric: str
    start: str
    values: tuple[float, ...]
    over_random: Gain | None
    over_supervised: Gain | None
    seconds: float
    """What one run of the evaluation took, on average; shared by its figures."""

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds; None for one."""
        if len(self.values) < 2:
            return None
        return math.sqrt(sum((v - self.mean) ** 2 for v in self.values) / (len(self.values) - 1))


def compare(
    starts: Sequence[str],
    configs: dict[str, Any],
    *,
    seeds: int,
    out: Path,
    supervised: str | None = None,
    say: Callable[[str], None] = print,
) -> list[Row]:
    """Evaluates every start with every config and seed; writes compare.md, .csv and .json into `out`.

    Args:
        starts: what `resolve_encoder` knows; several joined by commas are replicas of one start, taken in turn by the seeds.
            Without a start at random, one with the model of the first is added.
        configs: config by the name of its evaluation; the seed is set here.
        seeds: how often each is evaluated, with seeds 0, 1, ...
        supervised: the start that gains are also counted over; one of `starts`.

    Raises:
        UserError: a start or a setting that does not serve; found before anything is computed.
    """
    if seeds < 1:
        raise UserError(f"--seeds must be at least 1, not {seeds}")
    if not configs:
        raise UserError("--eval names no evaluation")
    names = list(dict.fromkeys(starts))
    if not names:
        raise UserError("name at least one encoder")
    random = next((name for name in names if name.startswith("random:")), None)
    if random is None:
        random = f"random:{replicas(names[0])[0].removeprefix('hub:')}"
        say(f"no start at random was named; {random} is added, for what is gained over it")
        names.append(random)
    if supervised is not None and supervised not in names:
        raise UserError(f"--supervised {supervised} is not one of the encoders: {', '.join(names)}")
    opened = {name: [resolve_encoder(part) for part in replicas(name)] for name in names}
    declared = next((start.value_range for members in opened.values() for start in members if start.value_range), None)
    opened = {  # a start that was trained without a range sees the same pixels as the others
        name: [replace(start, value_range=start.value_range or declared) for start in members]
        for name, members in opened.items()
    }

    results: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for evaluation, config in configs.items():
        for name, members in opened.items():
            for seed in range(seeds):
                start: ResolvedEncoder = members[seed % len(members)]
                say(f"{evaluation} of {start.spec}, seed {seed}")
                found = evaluate(evaluation, start, replace(config, seed=seed), reuse=True)
                results.setdefault((evaluation, name), []).append(found)
    rows = table(results, random=random, supervised=supervised)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written ({error.strerror})") from error
    write_atomically(out / "compare.md", lambda file: file.write(markdown(rows, seeds=seeds).encode()))
    write_atomically(out / "compare.csv", lambda file: file.write(as_csv(rows).encode()))
    sources = [{"path": found["path"], "start": found["start"]} for some in results.values() for found in some]
    write_json(out / "compare.json", {"format": 1, "seeds": seeds, "rows": as_plain(rows), "results": sources})
    return rows


def replicas(name: str) -> list[str]:
    """The starts that commas join; commas within brackets belong to a timm model's arguments."""
    return re.split(r",(?![^\[]*\])", name)


def table(results: dict[tuple[str, str], list[dict[str, Any]]], *, random: str, supervised: str | None) -> list[Row]:
    """Rows for every figure that all starts of an evaluation have, the main one first."""
    rows = []
    for evaluation in dict.fromkeys(key[0] for key in results):
        mine = {name: found for (kind, name), found in results.items() if kind == evaluation}
        shared = set.intersection(*(set(one["metrics"]) for found in mine.values() for one in found))
        main, up = (next(iter(mine.values()))[0][key] for key in ("main", "higher_is_better"))
        costs = {name: sum(one["seconds"] for one in found) / len(found) for name, found in mine.items()}
        for metric in [main, *sorted(shared - {main})]:
            figures = {name: [float(one["metrics"][metric]) for one in found] for name, found in mine.items()}
            for name, values in figures.items():
                over = {
                    base: gain(values, figures[base], higher_is_better=up)
                    for base in (random, supervised)
                    if base is not None and base != name
                }
                gains = over.get(random), over.get(supervised or "")
                rows.append(Row(evaluation, metric, name, tuple(values), *gains, seconds=costs[name]))
    return rows


def markdown(rows: Sequence[Row], *, seeds: int) -> str:
    """The table for people: in per cent, mean and standard deviation over seeds, gains in points."""
    against = any(row.over_supervised for row in rows)
    head = ["evaluation", "figure", "start", "mean ± sd", "gain over random"] + ["gain over supervised"] * against
    head.append("minutes")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        spread = f" ± {100 * row.spread:.2f}" if row.spread is not None else ""
        cells = [row.evaluation, row.metric, row.start.replace("|", "\\|"), f"{100 * row.mean:.2f}{spread}"]
        cells += [_words(row.over_random)] + [_words(row.over_supervised)] * against + [f"{row.seconds / 60:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    seeds_words = f"{seeds} seeds" if seeds > 1 else "one seed, so no spread"
    return (
        "\n".join(lines)
        + f"\n\nIn per cent; {seeds_words}; gains at equal seeds with their 95 % interval; minutes of one run.\n"
    )


def as_csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    names = [
        "evaluation",
        "metric",
        "start",
        "mean",
        "sd",
        "gain_over_random",
        "interval",
        "verdict",
        "seconds",
        "values",
    ]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        over = row.over_random
        writer.writerow(
            {
                "evaluation": row.evaluation,
                "metric": row.metric,
                "start": row.start,
                "mean": row.mean,
                "sd": row.spread,
                "gain_over_random": over.mean if over else None,
                "interval": over.half if over else None,
                "verdict": over.verdict if over else None,
                "seconds": row.seconds,
                "values": " ".join(map(str, row.values)),
            }
        )
    return text.getvalue()


def as_plain(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [
        {
            "evaluation": row.evaluation,
            "metric": row.metric,
            "start": row.start,
            "values": list(row.values),
            "mean": row.mean,
            "sd": row.spread,
            "over_random": vars(row.over_random) if row.over_random else None,
            "over_supervised": vars(row.over_supervised) if row.over_supervised else None,
            "seconds": row.seconds,
        }
        for row in rows
    ]


def _words(found: Gain | None) -> str:
    if found is None:
        return ""
    if found.half is None:
        return f"{100 * found.mean:+.2f} ({found.verdict})"
    words = f"{100 * found.mean:+.2f} ± {100 * found.half:.2f}"
    return f"{words} (no difference)" if found.verdict == "no difference" else words
