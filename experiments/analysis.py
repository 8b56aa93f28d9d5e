"""What results say: figures by start and seed, paired differences, and a bootstrap over source objects."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.plan import Row
from experiments.source_images import group_of
from repre.evaluation.comparison import Gain, gain
from repre.evaluation.metrics import with_share

FIGURES = {
    "foreground": {"miou": "object mIoU"},
    "miou": {"miou": "linear mIoU"},
    "knn": {"knn20": "k-NN"},
    "linear": {"accuracy": "linear"},
    "upernet": {"miou": "UPerNet mIoU"},
    "foreground-upernet": {"miou": "UPerNet object mIoU"},
    "detect": {"box_ap": "box AP", "mask_ap": "mask AP"},
    "foreground-detect": {"box_ap": "object box AP", "mask_ap": "object mask AP"},
    "gradients": {
        "gradient_ratio_start": "gradient ratio in %, first step",
        "gradient_ratio_end": "gradient ratio in %, last step",
    },
    "foreground-labels": {"miou": "object mIoU"},
    "miou-labels": {"miou": "linear mIoU"},
    "detect-labels": {"box_ap": "box AP", "mask_ap": "mask AP"},
    "foreground-detect-labels": {"box_ap": "object box AP", "mask_ap": "object mask AP"},
}
"""Evaluation: its figures and what to call them. All are shares and are shown in percent."""
RESAMPLES = 2000

Results = Mapping[tuple[str, int, str], dict[str, Any]]


def load(folder: Path) -> dict[tuple[str, int, str], dict[str, Any]]:
    """All figures of a preset by start, seed and evaluation, but for those of other weights than are noted."""
    notes, found = training_notes(folder), {}
    for path in sorted(folder.glob("*/seed*-*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if "evaluation" in content:
            start, seed = content["start"], content["seed"]
            if content.get("weights") == notes.get((start, seed), {}).get("weights"):
                found[start, seed, content["evaluation"]] = content
    return found


def training_notes(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """What is noted of every training, by start and seed."""
    notes = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*/seed*-train.json"))]
    return {(content["start"], content["seed"]): content for content in notes}


def failures(folder: Path) -> list[dict[str, Any]]:
    """Trainings that broke down: start, seed and reason."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*/seed*-failure.json"))]


def values(results: Results, start: str, seeds: Iterable[int], evaluation: str, metric: str) -> dict[int, float]:
    """A figure by seed, in percent; seeds that are not measured are not in it."""
    found = {}
    for seed in seeds:
        content = results.get((start, seed, evaluation))
        if content is not None:
            found[seed] = 100 * content["metrics"][metric]
    return found


@dataclass(frozen=True)
class Line:
    """One row of a table in one figure."""

    row: Row
    figure: str
    values: dict[int, float]
    pairs: int
    """How many seeds both this start and the one that it is compared with have."""
    gain: Gain | None
    mixed: int = 0
    """In how many of these pairs the two were measured on different machines."""


def lines(rows: list[Row], results: Results) -> list[Line]:
    """Every row of a table in every figure, figure by figure; also those without a value."""
    by_label = {row.label: row for row in rows}
    names = list(dict.fromkeys(name for row in rows for name in row.evaluations if name in FIGURES))
    found = []
    for evaluation in names:
        for metric, words in FIGURES[evaluation].items():
            for key, figure in _at_fractions(metric, words, evaluation, results):
                for row in rows:
                    if evaluation in row.evaluations:
                        found.append(_line(row, by_label, results, evaluation, key, figure))
    return found


def _line(row: Row, by_label: Mapping[str, Row], results: Results, evaluation: str, metric: str, figure: str) -> Line:
    mine = values(results, row.start.name, row.each_seed, evaluation, metric)
    if row.against is None:
        return Line(row, figure, mine, 0, None)
    theirs = values(results, by_label[row.against].start.name, row.each_seed, evaluation, metric)
    both = sorted(set(mine) & set(theirs))
    compared = both and evaluation != "gradients"  # a ratio has no better or worse
    difference = gain([mine[seed] for seed in both], [theirs[seed] for seed in both]) if compared else None
    other = by_label[row.against].start.name
    mixed = sum(
        _where(results[row.start.name, seed, evaluation]) != _where(results[other, seed, evaluation]) for seed in both
    )
    return Line(row, figure, mine, len(both), difference, mixed)


def _where(content: Mapping[str, Any]) -> tuple[Any, ...]:
    """Processor and version of torch: where they are the same, so are the weights that a seed is trained to."""
    machine = content.get("machine", {})
    return machine.get("processor"), machine.get("device"), machine.get("torch")


def _at_fractions(metric: str, words: str, evaluation: str, results: Results) -> list[tuple[str, str]]:
    """Keys of the metric at every label fraction that was measured, with words; the metric itself elsewhere."""
    if not evaluation.endswith("-labels"):
        return [(metric, words)]
    configs = [content["config"] for (_, _, name), content in results.items() if name == evaluation]
    shares = sorted({share for config in configs for share in config["label_fraction"]}) or [1.0]
    return [(with_share(metric, share, shares), f"{words}, {share:.0%} of the labels") for share in shares]


def bootstrap(
    mine: Mapping[str, tuple[int, int]], theirs: Mapping[str, tuple[int, int]], *, seed: int = 0
) -> tuple[float, float, float]:
    """Difference of two accuracies in points, with the 95 % interval of a bootstrap over source objects.

    Slowly: draw as many objects as there are, with replacement; pool the right answers and the images of those drawn;
    take the difference of the shares; of many such differences the 2.5th and 97.5th percentile. Encoders are not drawn:
    how far trainings differ is not in the interval.

    Args:
        mine, theirs: right answers and images by object, the same objects with as many images.
    """
    names = sorted(mine)
    assert names == sorted(theirs), "both starts are tested on the same objects"
    right = np.array([mine[name][0] - theirs[name][0] for name in names], float)
    count = np.array([mine[name][1] for name in names], float)
    drawn = np.random.Generator(np.random.PCG64(seed)).integers(len(names), size=(RESAMPLES, len(names)))
    shares = 100 * right[drawn].sum(1) / count[drawn].sum(1)
    low, high = np.percentile(shares, (2.5, 97.5))
    return float(100 * right.sum() / count.sum()), float(low), float(high)


def pooled_objects(rows: list[Row], results: Results) -> dict[str, dict[str, tuple[int, int]]]:
    """Right answers and images by source object (near-duplicates are one), over all seeds and folds in which both starts
    of a pair are measured; by the label without its fold, with the same keys for both."""
    pools: dict[str, dict[str, tuple[int, int]]] = {}
    by_label = {row.label: row for row in rows}
    for row in rows:
        if row.against is None:
            continue
        for seed in row.each_seed:
            pair = [results.get((one.start.name, seed, "objects")) for one in (row, by_label[row.against])]
            for one, content in zip((row, by_label[row.against]), pair):
                if content is None or None in pair:
                    continue
                pool = pools.setdefault(without_fold(one.label), {})
                for name, (right, count) in content["details"]["objects"].items():
                    before = pool.get(group_of(name), (0, 0))
                    pool[group_of(name)] = before[0] + right, before[1] + count
    return pools


def without_fold(label: str) -> str:
    head, comma, tail = label.partition(", fold ")
    return head + tail[1:] if comma else label
