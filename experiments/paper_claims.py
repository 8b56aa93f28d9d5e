"""The paper's claims against the results: cost, variety of frameworks, hierarchy, and other ways to start an encoder."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from experiments.comparisons import (
    BRANCH,
    MIN_GAIN,
    SHARE,
    Comparison,
    Study,
    against,
    comparisons,
    data_of,
    format_gain,
    is_end_to_end,
    pooled,
    primary_metric,
    short,
    start_of,
    without_all_labels,
)
from repre.evaluation.gains import Gain

ENDS = "Trained end to end (exploratory)"
PAPER = "The paper's claims (exploratory)"
OTHERS = {
    "random init": "random init",
    "supervised": "supervised training",
    "dino": "DINO",
    "dinov2": "DINOv2",
    "branch only": "pixels alone",
    "pixels alone": "pixels alone",
    "masked pixels only (after SimMIM)": "masked pixels",
    "masked pixels (after SimMIM)": "masked pixels",
    "masked student, last level only (after CMAE)": "a masked student",
    "masked student, last level (after CMAE)": "a masked student",
}
"""Label of another method in the tables -> its name in a claim."""
FIRST_OTHERS = ("random init", "supervised")
"""What training end to end is compared with."""
TABLES_OF_STARTS = ("3", "camvid", "cifar10", "ends")
"""Tables that compare RePre with other methods."""
CHANGED = {"last level only": "the last level only", "two levels": "two levels", "linear decoder": "a linear decoder"}
"""Label of a row with another decoder -> its name in a claim."""


@dataclass(frozen=True)
class Claim:
    """One line of the table of claims."""

    group: str
    text: str
    measured: str
    verdict: str


@dataclass(frozen=True)
class Cost:
    """What the branch adds in pre-training, as shares of what the encoder takes alone."""

    preset: str
    start: str
    parameters: float
    flops: float
    time: float | None
    """Increase of the time of a step; None if it is not measured."""
    times: int
    """Number of measurements of the time."""


def judge(difference: Gain, threshold: float) -> str:
    """Whether a difference in points reaches a threshold: reached, missed, or open if its interval holds the threshold."""
    if difference.half is None or abs(difference.mean - threshold) < difference.half:
        return "open"
    return "reached" if difference.mean >= threshold else "missed"


def paper_claims(studies: Sequence[Study]) -> Iterator[Claim]:
    """Yields a line for every claim of the paper that something is measured for."""
    tests = "not a measurement: tests compare bit for bit"
    yield Claim(PAPER, "Works with any framework; without its loss it equals that framework", tests, "reached")
    shares = "; ".join(
        f"{cost.start} {cost.parameters:.0%}, {cost.flops:.0%}, "
        + (f"{cost.time:.0%}" if cost.time is not None else "not measured")
        for cost in costs(studies)
    )
    if shares:
        yield Claim(PAPER, "Lightweight: adds parameters, FLOPs, time of a step", shares, "no goal was set")
    for study in studies:
        yield from _variety(study)
        yield from _hierarchy(study)
        yield from other_starts(study, end_to_end=False)


def costs(studies: Sequence[Study]) -> list[Cost]:
    """Returns the cost for every size of encoder and decoder; of several frameworks, the one whose time is measured."""
    found: dict[tuple[float, float], Cost] = {}
    for study in studies:
        longer = {row.method.same_time_as: row.method.name for row in study.rows if row.method.same_time_as}
        for row in study.rows:
            records = [study.trainings.get((row.method.name, seed)) for seed in row.seeds]
            sizes = next((record["costs"] for record in records if record and "costs" in record), None)
            if not row.label.endswith(BRANCH) or sizes is None:
                continue
            parameters, flops = (
                sizes[f"decoder_{kind}"] / sizes[f"encoder_{kind}"] for kind in ("parameters", "flops")
            )
            timed = [study.trainings.get((longer.get(row.method.name, ""), seed)) for seed in row.seeds]
            ratios = [record["time_ratio"] for record in timed if record]
            time = sum(ratios) / len(ratios) - 1 if ratios else None
            key = (round(parameters, 2), round(flops, 2))
            if key not in found or len(ratios) > found[key].times:
                found[key] = Cost(study.preset.name, start_of(row), parameters, flops, time, len(ratios))
    return list(found.values())


def variety(study: Study) -> list[Comparison]:
    """Returns the exploratory comparisons in the primary metric on the data with most pairs of framework and encoder."""
    metric = primary_metric(study.preset)
    by_data: dict[str, list[Comparison]] = {}
    for each in comparisons(study):
        if each.metric == metric and not each.is_confirmatory:
            by_data.setdefault(each.data, []).append(each)
    return max(by_data.values(), key=len, default=[])


def _variety(study: Study) -> Iterator[Claim]:
    found = variety(study)
    if len(found) > 1:
        mean = pooled(found).gain
        higher, by_goal = (sum(each.gain.mean > limit for each in found) for limit in (0, MIN_GAIN))
        text = f"Improves various frameworks with various transformers: {found[0].metric}, {found[0].data}"
        measured = (
            f"higher in {higher} of {len(found)} pairs, by {MIN_GAIN:g} or more in {by_goal}; mean {format_gain(mean)}"
        )
        yield Claim(PAPER, text, measured, judge(mean, 0.0))


def _hierarchy(study: Study) -> Iterator[Claim]:
    """Four levels and a convolutional decoder against less, where these are measured."""
    entries, metric = study.tables.get("2", []), primary_metric(study.preset)
    for label, name in CHANGED.items():
        difference = against(entries, "defaults", label, metric)
        if difference is not None:
            yield Claim(PAPER, f"Hierarchy: above {name}, {metric}", short(difference), judge(difference, 0.0))


@dataclass(frozen=True)
class Other:
    """RePre, with the first framework of a table, against another way to start the encoder, in one metric."""

    name: str
    data: str
    metric: str
    """Without the number of labels if these are all."""
    gain: Gain


def others(study: Study) -> list[Other]:
    """Returns every measured difference between RePre and another start; of a start in two tables, the first."""
    found: dict[tuple[str, str, str], Other] = {}
    for table in TABLES_OF_STARTS:
        entries = study.tables.get(table, [])
        row = next((entry.row for entry in entries if entry.row.label.endswith(BRANCH)), None)
        for metric in dict.fromkeys(entry.metric for entry in entries if row):
            for label, name in OTHERS.items():
                difference = against(entries, row.label, label, metric) if row else None
                if row is not None and difference is not None and "gradient" not in metric:
                    other = Other(name, data_of(row), without_all_labels(metric, study.preset), difference)
                    found.setdefault((name, other.data, other.metric), other)
    return list(found.values())


def other_starts(study: Study, *, end_to_end: bool) -> Iterator[Claim]:
    """Yields a line for every other start that RePre is to exceed.

    Args:
        end_to_end: encoder and head are trained together, against random init and training on labels; otherwise the main
            metric of the frozen encoder, against all.
    """
    main: dict[str, str] = {}
    for other in others(study):
        if is_end_to_end(other.metric) != end_to_end or "mask AP" in other.metric:
            continue
        if end_to_end and other.name not in (OTHERS[label] for label in FIRST_OTHERS):
            continue
        if not end_to_end and (SHARE.search(other.metric) or main.setdefault(other.data, other.metric) != other.metric):
            continue
        text = f"RePre above {other.name}: {other.metric}, {other.data}"
        yield Claim(ENDS if end_to_end else PAPER, text, short(other.gain), judge(other.gain, 0.0))
