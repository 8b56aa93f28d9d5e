"""The answer in three sentences, the rows of the picture, and the quoted numbers by name: all from the comparisons."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.comparisons import (
    Comparison,
    Study,
    by_place,
    comparisons,
    data_and_setting,
    quote,
    short,
    without_all_labels,
)
from experiments.paper_claims import ENDS, PAPER, Claim, costs, others

LISTED = 2
"""Most losses that a sentence lists."""
LEAST_LOSS = -0.5
"""A mean below this many points counts as a loss."""


FAMILIES = ("object mIoU", "linear mIoU", "few labels", "patch k-NN mIoU", "end to end")
"""Dense metrics that the picture tells apart."""


@dataclass(frozen=True)
class PictureRow:
    """One row of the picture: the metrics of one data set, framework and encoder."""

    title: str
    found: tuple[Comparison, ...]


def sentences(studies: Sequence[Study], extra: Sequence[Comparison], lines: Sequence[Claim]) -> dict[str, str]:
    """Returns the three sentences by name: help, where, cost.

    Args:
        extra: comparisons that belong to no preset.
        lines: the table of claims, which tells what is not shown.
    """
    found = by_place([*(each for study in studies for each in comparisons(study)), *extra])
    return {"help": _help(found), "where": _where(found, lines), "cost": _cost(studies, found)}


def _help(found: Sequence[Comparison]) -> str:
    fixed = [each for each in found if each.is_confirmatory and each.is_dense]
    complete = [each for each in fixed if each.gain.pairs >= each.expected]
    if not complete:
        return "**Does it help?** No comparison that was fixed beforehand is complete yet."
    better = sum(each.gain.verdict == "better" for each in complete)
    answer = (
        "Yes, frozen dense features" if better == len(complete) else "Frozen dense features" if better else "Not shown"
    )
    lead = f"{answer}, in {better} of {len(complete)} comparisons fixed before they were run"
    rest = [each for each in fixed if each not in complete]
    unfinished = f"; not complete yet: {_quoted(rest)}" if rest else ""
    return f"**Does it help?** {lead}: {_quoted(complete)}{unfinished}."


def _quoted(found: Sequence[Comparison]) -> str:
    """Differences by data set and metric, with their intervals."""
    groups: dict[str, list[str]] = {}
    for each in found:
        text = f"{short(each.gain, each.unit)} with {each.start}"
        metric, _, labels = each.metric.partition(", ")
        name = f"{metric} on {each.shown_data}" + (f" with {labels}" if labels else "")
        groups.setdefault(name, []).append(text)
    return "; ".join(f"{name} {_enumerate(texts)}" for name, texts in groups.items())


def _where(found: Sequence[Comparison], lines: Sequence[Claim]) -> str:
    frozen = [each for each in found if not each.is_confirmatory and not each.is_end_to_end and not each.is_few_labels]
    if not frozen:
        return "**Where, and where not?** Other data sets are not measured yet."
    losses = sorted((each for each in frozen if each.gain.mean < LEAST_LOSS), key=lambda each: each.gain.mean)
    gains = [each for each in frozen if each.is_dense and each.gain.verdict == "better"]
    parts = []
    if gains:
        best = max(gains, key=lambda each: each.gain.mean)
        parts.append(f"the largest gain is {_difference(best)}")
    if losses:
        several = len(losses) > 1
        more = f", and {len(losses) - LISTED} are smaller" if len(losses) > LISTED else ""
        verb = "largest losses are" if several else "only loss is"
        parts.append(f"the {verb} {_enumerate([_difference(each) for each in losses[:LISTED]])}{more}")
    above = [line for line in lines if line.text.startswith("RePre above ")]
    shown = {_other(line) for line in above if line.group == PAPER and line.verdict == "reached"}
    names = [_other(line) for line in above if line.group == PAPER and _other(line) not in shown]
    ends = [line for line in above if line.group == ENDS]
    if ends and not any(line.verdict == "reached" for line in ends):
        names.append("any encoder trained end to end")
    if names:
        parts.append(f"no gain is shown over {_enumerate(list(dict.fromkeys(names)))}")
    return f"**Where, and where not?** In exploratory runs {'; '.join(parts)}."


def _other(line: Claim) -> str:
    """The start that a line compares RePre with."""
    return line.text.removeprefix("RePre above ").split(": ")[0]


def _difference(found: Comparison) -> str:
    return f"{found.metric} on {found.shown_data} {short(found.gain, found.unit)}"


def _enumerate(texts: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(texts[:-1]), texts[-1])))


def _cost(studies: Sequence[Study], found: Sequence[Comparison]) -> str:
    shares = []
    for cost in costs(studies):
        once = " (measured once)" if cost.times == 1 else ""
        time = f"{cost.time:.0%} more time per step{once} and " if cost.time is not None else ""
        shares.append(f"{time}{cost.parameters:.0%} more parameters with {cost.start}".replace("%", " %"))
    training = f"In pre-training {_enumerate(shares)}; afterwards nothing" if shares else "Not measured"
    knn = [each for each in found if each.metric == "k-NN"]
    knn = [each for each in knn if each.is_confirmatory] or knn
    return f"**What does it cost?** {training}; {_quoted(knn) or 'k-NN is not measured'}."


def picture_rows(studies: Sequence[Study], extra: Sequence[Comparison]) -> list[PictureRow]:
    """Returns the rows of the picture, comparisons that were fixed beforehand first."""
    found = by_place([*(each for study in studies for each in comparisons(study)), *extra])
    found = [each for each in found if not each.is_dense or family(each) is not None]
    places: dict[str, list[Comparison]] = {}
    for each in found:
        folds = f", {each.gain.pairs} folds" if each.unit == "folds" else ""
        fixed = ", fixed beforehand" if each.is_confirmatory else ""
        places.setdefault(f"{each.shown_data}: {each.start}{folds}{fixed}", []).append(each)
    return [PictureRow(title, tuple(group)) for title, group in places.items()]


def family(found: Comparison) -> str | None:
    """Returns which of `FAMILIES` a dense comparison belongs to; None if the picture leaves it out."""
    if found.is_few_labels:
        return "few labels" if found.metric.startswith(("object", "linear")) else None
    if found.is_end_to_end:
        return None if "mask AP" in found.metric else "end to end"
    return found.metric if found.metric in FAMILIES else None


def figures(studies: Sequence[Study], extra: Sequence[Comparison], lines: Sequence[Claim]) -> dict[str, str]:
    """Returns every number that documents may quote: name -> text.

    Names are PRESET/DATA/START/METRIC, with `fixed` before the data where the comparison was fixed before it was run;
    PRESET/above/OTHER/DATA/METRIC where RePre is compared with another start; PRESET/harm/DATA/SETTING/METRIC of a
    setting of the branch; PRESET/cost/START; and answer/help, answer/where, answer/cost for the sentences.
    """
    texts = {f"answer/{name}": text for name, text in sentences(studies, extra, lines).items()}
    found = [*(each for study in studies for each in comparisons(study)), *extra]
    pooled_only = [each for each in by_place(found) if each not in found]
    for each in found + pooled_only:
        fixed = ("fixed",) if each.is_confirmatory else ()
        start = "all pairs" if each.unit == "pairs" else each.start
        parts = (each.preset, *fixed, each.data, start, each.metric.replace("% of the labels", " percent"))
        texts["/".join(map(slug, parts))] = quote(each.gain, each.unit)
    for cost in costs(studies):
        time = f", {cost.time:.0%} more time per step" if cost.time is not None else ""
        text = f"{cost.parameters:.0%} more parameters, {cost.flops:.0%} more FLOPs{time}".replace("%", " %")
        texts[f"{cost.preset}/cost/{slug(cost.start)}"] = text
    for study in studies:
        for other in others(study):
            name = "/".join(map(slug, (study.preset.name, "above", other.name, other.data, other.metric)))
            texts[name] = quote(other.gain)
        texts |= _variants(study)
    return texts


def _variants(study: Study) -> dict[str, str]:
    """The numbers of the table of variants: PRESET/harm/DATA/SETTING/METRIC."""
    texts = {}
    for entry in study.tables.get("harm", []):
        data, setting = data_and_setting(entry.row)
        metric = without_all_labels(entry.metric, study.preset)
        name = "/".join(map(slug, (study.preset.name, "harm", data, setting, metric)))
        if entry.gain is not None:
            texts[name] = quote(entry.gain)
        elif entry.values and setting != "plain" and "step" in metric:
            texts[name] = f"{entry.mean:.0f} %"
    return texts


def slug(text: str) -> str:
    """A text as part of a name: lower case, letters and digits, words joined by hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
