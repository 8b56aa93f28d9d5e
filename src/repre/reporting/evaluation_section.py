"""The tables of evaluations: comparisons with their gains, and stored results."""

import json
from collections.abc import Sequence
from itertools import groupby
from statistics import mean, stdev

from repre.reporting.formatting import figure, share
from repre.reporting.rendering import Child, Html, tag
from repre.reporting.parts import Page, Section, section, table
from repre.reporting.run_data import Row, RunData, number


def evaluations(run: RunData, page: Page) -> Section | None:
    """Tables of `repre compare` with gains, and every stored result."""
    if not run.evaluations and not run.comparisons:
        page.missing.append("Evaluations: none is stored; repre eval and repre compare write them.")
        return None
    body: list[Child] = [compared(one) for one in run.comparisons]
    if run.evaluations:
        body += [tag("h3", None, "Single evaluations of this run"), stored(run.evaluations, run.chance)]
    return section("evaluations", "Evaluations", "What the frozen or tuned encoder is worth on labeled data.", *body)


def compared(comparison: Row) -> Html:
    """The table of one comparison: mean and spread over seeds, gain over chance with its interval."""
    given = [row for row in comparison["rows"] if isinstance(row, dict)]
    bases = {"over_random": "Gain over random", "over_supervised": "Gain over supervised"}
    shown = [base for base in bases if any(isinstance(row.get(base), dict) for row in given)]
    rows = [
        [str(row.get("evaluation")), str(row.get("metric")), tag("code", None, str(row.get("start"))),
         spread(row.get("mean"), row.get("sd")), *(gain(row.get(base)) for base in shown)]
        for row in given
    ]  # fmt: skip
    seeds = number(comparison.get("seeds"))
    told = "One seed, so no spread" if seeds == 1 else f"{figure(seeds)} seeds, mean and standard deviation"
    head = ["Evaluation", "Figure", "Start", "Result", *(bases[base] for base in shown)]
    words = tag("p", {"class": "lead"}, f"{told}; gains in points at equal seeds, with their 95\u2009% interval.")
    return tag(
        "div", None, tag("h3", None, "Compared with chance"), words, table(head, rows, "Comparison of starts", words=3)
    )


def spread(mean: object, deviation: object) -> str:
    """Mean and standard deviation in per cent."""
    return share(mean) + (f" ± {share(deviation)}" if number(deviation) is not None else "")


def gain(given: object) -> Html | str:
    if not isinstance(given, dict) or (mean := number(given.get("mean"))) is None:
        return ""
    half = number(given.get("half"))
    words = f"{100 * mean:+.2f}" + (f" ± {100 * half:.2f}" if half is not None else "")
    said = str(given.get("verdict", ""))
    return tag(
        "span", {"class": f"gain {said if said in ('better', 'worse') else 'unclear'}"}, words, tag("small", None, said)
    )


def stored(results: Sequence[Row], chance: Sequence[Row] = ()) -> Html:
    """Stored results by evaluation and settings, the main figure over the seeds; and what the same model gives without
    training, where that is stored with the same settings: the mean difference at equal seeds, without a claim."""
    rows: list[list[Child]] = []
    without = {(_settings(one), number(one.get("seed"))): one for one in chance}
    for _, group in groupby(sorted(results, key=_settings), key=_settings):
        same = list(group)
        first, main = same[0], str(same[0]["main"])
        values = [v for one in same if (v := number(one["metrics"].get(main))) is not None]
        pairs = [(number(one["metrics"].get(main)), number(other["metrics"].get(main))) for one in same
                 if (other := without.get((_settings(one), number(one.get("seed"))))) is not None]  # fmt: skip
        gains = [a - b for a, b in pairs if a is not None and b is not None]
        over = f"{100 * mean(gains):+.2f} ({len(gains)} seed{'s' * (len(gains) > 1)})" if gains else "–"
        settings = first["config"] if isinstance(first.get("config"), dict) else {}
        data = str(settings.get("data") or first.get("start", ""))
        others = [f"{name} {share(value)}" for name, value in first["metrics"].items() if name != main]
        rows.append(
            [str(first.get("evaluation", first["file"])), tag("code", None, data),
             main, spread(mean(values) if values else None, stdev(values) if len(values) > 1 else None), figure(len(same)),
             over, tag("small", None, ", ".join(others[:12]))]
        )  # fmt: skip
    return table(
        ["Evaluation", "Data", "Figure", "Result", "Seeds", "Over chance", "Others"],
        rows,
        "Stored evaluations",
        words=3,
    )


def _settings(result: Row) -> str:
    """What defines an evaluation besides the encoder and the seed."""
    given = result["config"] if isinstance(result.get("config"), dict) else {}
    return json.dumps(
        [result.get("evaluation"), {k: v for k, v in given.items() if k != "seed"}], sort_keys=True, default=str
    )
