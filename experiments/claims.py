"""The table of claims: goals that were fixed beforehand, goals for every data set, training end to end, the paper's claims.

A claim is reached, or missed, if the whole interval is on one side of its goal; otherwise it is open. Where it was fixed
with a comparison that the means decide, they do; the table says so where the interval is open.
"""

from collections.abc import Iterator, Sequence

from experiments.comparisons import (
    DATA,
    FIXED_METRICS,
    IMAGE_METRICS,
    MIN_AP_GAIN,
    MIN_CHANGE,
    MIN_GAIN,
    Comparison,
    Study,
    by_place,
    comparisons,
    count,
    data_and_setting,
    format_gain,
    pooled,
    short,
    without_all_labels,
)
from experiments.paper_claims import ENDS, Claim, judge, other_starts, paper_claims

FIXED = "Fixed before it was run"
BY_DATA = "Goals by data set (exploratory)"
REQUIRED_DATA = 3
"""Number of data sets on which a default without harm is to reach the dense goal."""
REQUIRED_SEEDS = 3
"""Number of pairs of seeds that it takes."""


def goal_of(metric: str) -> float:
    """Returns the least difference, in percentage points, that the branch is to make in a metric."""
    if metric in IMAGE_METRICS:
        return MIN_CHANGE
    return MIN_AP_GAIN if "AP" in metric else MIN_GAIN


def judge_fixed(found: Comparison, goal: float) -> str:
    """The verdict on a comparison that was fixed beforehand, once all its pairs are measured."""
    if found.gain.pairs < found.expected:
        return "open"
    if not found.means_decide:
        return judge(found.gain, goal)
    by_mean = "reached" if found.gain.mean >= goal else "missed"
    return by_mean if judge(found.gain, goal) == by_mean else f"{by_mean} (by the mean)"


def claims(studies: Sequence[Study], extra: Sequence[Comparison] = ()) -> list[Claim]:
    """Returns all lines of the table, as far as something is measured.

    Args:
        extra: comparisons that belong to no preset.
    """
    found = [each for study in studies for each in comparisons(study)]
    shown = by_place([*found, *extra])
    lines = [*_fixed(shown)]
    for study in studies:
        lines += _target(study)
    lines += _by_data(shown)
    for study in studies:
        lines += _harmless(study)
    lines += _end_to_end(found)
    for study in studies:
        lines += other_starts(study, end_to_end=True)
    return [*lines, *paper_claims(studies)]


def claim_table(lines: Sequence[Claim]) -> str:
    """Returns the table in Markdown; every group has a heading line."""
    parts = ["| claim | measured, points | verdict |", "|---|---|---|"]
    for group in dict.fromkeys(line.group for line in lines):
        parts.append(f"| **{group}** | | |")
        for line in (each for each in lines if each.group == group):
            verdict = f"**{line.verdict}**" if line.verdict.startswith("missed") else line.verdict
            parts.append(f"| {line.text} | {line.measured} | {verdict} |")
    return "\n".join(parts) + "\n"


def _fixed(found: Sequence[Comparison]) -> Iterator[Claim]:
    for each in found:
        if not each.is_confirmatory:
            continue
        goals = {f"≥ {goal_of(each.metric):+g}": goal_of(each.metric)}
        if not each.means_decide:  # the question was whether the branch helps; no gain was named
            goals = {"above that without the branch": 0.0, **goals}
        for name, goal in goals.items():
            text = f"{each.place}: {each.metric} {name}"
            yield Claim(FIXED, text, short(each.gain, each.unit), judge_fixed(each, goal))


def _target(study: Study) -> Iterator[Claim]:
    """Patch-normalized pixels against clean ones as target of the branch, fixed in `RealPlan.target`."""
    for entry in study.tables.get("target-confirmatory", []):
        data, target = data_and_setting(entry.row)
        metric = without_all_labels(entry.metric, study.preset)
        if entry.gain is None or target != "patch-normalized pixels" or metric not in FIXED_METRICS[entry.row.table]:
            continue
        goals = {"above that with clean pixels": 0.0} if metric in ("object mIoU", "k-NN") else {}
        if metric != "object mIoU":
            goals[f"less than {-MIN_CHANGE:g} below that with clean pixels"] = MIN_CHANGE
        for name, goal in goals.items():
            text = f"{DATA[data]}, patch-normalized pixels as target: {metric} {name}"
            verdict = judge(entry.gain, goal) if entry.pairs == entry.row.n_seeds else "open"
            yield Claim(FIXED, text, short(entry.gain), verdict)


def _by_data(found: Sequence[Comparison]) -> Iterator[Claim]:
    """Lines for the frozen metrics of every data set and start: dense ones, then those of whole images."""
    dense = {
        each.metric: f"{each.metric} ≥ {MIN_GAIN:+g}" for each in found if each.is_dense and not each.is_few_labels
    }
    few = {each.metric: f"few labels ≥ {MIN_GAIN:+g}" for each in found if each.is_few_labels}
    image = dict.fromkeys(IMAGE_METRICS, f"k-NN, linear ≥ {MIN_CHANGE:g}")
    goals = dense | few | image
    places: dict[tuple[str, str, str], list[Comparison]] = {}
    for each in found:
        is_left_out = each.is_few_labels and "patch" in each.metric  # the tables below have these
        if not each.is_confirmatory and not each.is_end_to_end and not is_left_out:
            places.setdefault((each.preset, each.data, each.start), []).append(each)
    for goal in dict.fromkeys(goals.values()):
        for group in places.values():
            chosen = [each for each in group if goals[each.metric] == goal]
            if chosen:
                yield Claim(BY_DATA, f"{chosen[0].place}: {goal}", _listed(chosen), _all_of(chosen))


def _listed(found: Sequence[Comparison]) -> str:
    """Differences by metric, with the number of pairs once if it is the same for all."""
    if len(found) == 1:
        return short(found[0].gain, found[0].unit)
    pairs = {count(each.gain.pairs, each.unit) for each in found}
    parts = [f"{each.metric.replace('% of the labels', ' %')} {format_gain(each.gain).strip('()')}" for each in found]
    if len(pairs) == 1:
        return f"{'; '.join(parts)} ({pairs.pop()})"
    return "; ".join(f"{part} ({count(each.gain.pairs, each.unit)})" for part, each in zip(parts, found))


def _all_of(found: Sequence[Comparison]) -> str:
    """Reached if every metric reaches its goal, missed if one misses it, otherwise open."""
    verdicts = {judge(each.gain, goal_of(each.metric)) for each in found}
    return "missed" if "missed" in verdicts else "open" if "open" in verdicts else "reached"


def _end_to_end(found: Sequence[Comparison]) -> Iterator[Claim]:
    """The branch against the plain framework, as the mean over the pairs of framework and encoder on a data set."""
    groups: dict[tuple[str, str, str], list[Comparison]] = {}
    for each in found:
        if each.is_end_to_end and "mask AP" not in each.metric:
            groups.setdefault((each.preset, each.data, each.metric), []).append(each)
    for group in groups.values():
        mean = pooled(group)
        text = f"{mean.place}: {mean.metric} ≥ {goal_of(mean.metric):+g}"
        yield Claim(ENDS, text, short(mean.gain, mean.unit), judge(mean.gain, goal_of(mean.metric)))


def _harmless(study: Study) -> Iterator[Claim]:
    """Whether a setting of the branch gains on three data sets and costs nothing on any: the default, and the best other."""
    settings: dict[str, dict[str, list[Comparison]]] = {}
    for entry in study.tables.get("harm", []):
        if entry.gain is not None:
            data, setting = data_and_setting(entry.row)
            metric = without_all_labels(entry.metric, study.preset)
            each = Comparison(study.preset.name, data, setting, metric, entry.gain)
            settings.setdefault(setting, {}).setdefault(data, []).append(each)
    judged = {setting: _judge_setting(by_data) for setting, by_data in settings.items()}
    others = [setting for setting in judged if setting != "default"]
    best = sorted(others, key=lambda setting: judged[setting][0], reverse=True)[:1]
    for setting in [*(setting for setting in judged if setting == "default"), *best]:
        name = "Default" if setting == "default" else f"Best of {len(others)} other settings, “{setting}”"
        text = f"{name}: dense ≥ {MIN_GAIN:+g} on {REQUIRED_DATA} data sets, k-NN, linear ≥ {MIN_CHANGE:g} on all"
        yield Claim(BY_DATA, text, *judged[setting][1:])


def _judge_setting(by_data: dict[str, list[Comparison]]) -> tuple[tuple[bool, int, float], str, str]:
    """How good a setting of the branch is, to sort by; what was measured; and the verdict."""
    dense = [found[0].gain for found in _chosen(by_data, dense=True)]
    image = [each.gain for found in _chosen(by_data, dense=False) for each in found]
    least = min((each.mean for each in image), default=0.0)
    gaining = sum(each.mean >= MIN_GAIN for each in dense)
    holds = gaining >= REQUIRED_DATA and least >= MIN_CHANGE
    pairs = min((each.pairs for each in (*dense, *image)), default=0)
    worst = f"worst of k-NN and linear {least:+.1f}" if image else "k-NN and linear not measured"
    measured = f"dense ≥ {MIN_GAIN:+g} on {gaining} of {len(dense)}; {worst} ({count(pairs)} or more)"
    verdict = ("reached" if holds else "missed") + " (by the means)" if pairs >= REQUIRED_SEEDS else "open"
    return (holds, gaining, least), measured, verdict


def _chosen(by_data: dict[str, list[Comparison]], *, dense: bool) -> list[list[Comparison]]:
    chosen = (
        [each for each in found if each.is_dense == dense and not each.is_few_labels] for found in by_data.values()
    )
    return [found for found in chosen if found]
