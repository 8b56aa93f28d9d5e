"""Analysis of stored results: metrics by method and seed, paired differences, and a bootstrap over source objects."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.methods import Row
from experiments.results_store import FAILURE, TRAINING, Records, ResultsStore, is_current
from experiments.source_images import group_of
from repre.evaluation.gains import Gain, gain
from repre.evaluation.metrics import with_fraction

METRICS = {
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
    "gradients-by-depth": {
        "gradient_ratio_start": "gradient ratio in %, first step",
        "gradient_ratio_first_block": "last step, first block",
        "gradient_ratio_last_block": "last step, last block",
        "gradient_cosine": "last step, lowest cosine in %",
    },
    "foreground-labels": {"miou": "object mIoU"},
    "miou-labels": {"miou": "linear mIoU"},
    "patch-knn-labels": {"miou": "patch k-NN mIoU"},
    "ends-labels": {"miou": "UPerNet mIoU, end to end"},
    "detect-labels": {"box_ap": "box AP", "mask_ap": "mask AP"},
    "foreground-detect-labels": {"box_ap": "object box AP", "mask_ap": "object mask AP"},
}
"""Evaluation -> key of each metric in the results -> its name in the tables. Values are fractions, shown in percent."""
RESAMPLES = 2000

Results = Mapping[tuple[str, int, str], dict[str, Any]]
"""Records of evaluations by method, seed and evaluation."""


def load_results(folder: Path) -> dict[tuple[str, int, str], dict[str, Any]]:
    """Loads all results of a preset, except stale ones: those measured with other weights than the training recorded."""
    return {
        (method, seed, name): record
        for method, records in _load(folder)
        for (seed, name), record in records.items()
        if name not in (TRAINING, FAILURE) and is_current(records, seed, name)
    }


def load_trainings(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Loads the training records of a preset, by method and seed."""
    return {
        (method, seed): record
        for method, records in _load(folder)
        for (seed, name), record in records.items()
        if name == TRAINING
    }


def load_failures(folder: Path) -> list[dict[str, Any]]:
    """Loads the records of failed trainings: method, seed and failure, the reason."""
    return [
        {"method": method, "seed": seed, **record}
        for method, records in _load(folder)
        for (seed, name), record in records.items()
        if name == FAILURE
    ]


def _load(folder: Path) -> list[tuple[str, Records]]:
    store = ResultsStore(folder)
    return [(method, store.read(method)) for method in store.methods()]


@dataclass(frozen=True)
class Entry:
    """One row of a table in one metric."""

    row: Row
    metric: str
    """Name of the metric in the tables."""
    values: dict[int, float]
    """Percent by seed; seeds that are not measured are missing."""
    pairs: int
    """Number of seeds for which both the row and its baseline are measured."""
    gain: Gain | None
    """Difference to the baseline in percentage points; None without a pair, and for metrics without better or worse."""
    mixed: int = 0
    """Number of pairs whose two results come from different machines."""

    @property
    def mean(self) -> float:
        """Mean over the measured seeds, of which there is one at least, in percent."""
        return sum(self.values.values()) / len(self.values)


def table_entries(rows: list[Row], results: Results) -> list[Entry]:
    """Returns every row of a table in every metric, metric by metric, including entries without a value."""
    by_label = {row.label: row for row in rows}
    evaluations = list(dict.fromkeys(name for row in rows for name in row.evaluations if name in METRICS))
    entries = []
    for evaluation in evaluations:
        for key, name in METRICS[evaluation].items():
            for fraction_key, fraction_name in _at_fractions(key, name, evaluation, results):
                entries += [
                    _entry(row, by_label, results, evaluation, fraction_key, fraction_name)
                    for row in rows
                    if evaluation in row.evaluations
                ]
    return entries


def _entry(row: Row, by_label: Mapping[str, Row], results: Results, evaluation: str, key: str, name: str) -> Entry:
    values = _percent_by_seed(results, row.method.name, row.seeds, evaluation, key)
    if row.baseline is None:
        return Entry(row, name, values, 0, None)
    baseline = by_label[row.baseline].method.name
    baseline_values = _percent_by_seed(results, baseline, row.seeds, evaluation, key)
    seeds = sorted(set(values) & set(baseline_values))
    comparable = seeds and not evaluation.startswith("gradients")  # a gradient ratio has no better or worse
    difference = gain([values[s] for s in seeds], [baseline_values[s] for s in seeds]) if comparable else None
    mixed = sum(
        _machine(results[row.method.name, seed, evaluation]) != _machine(results[baseline, seed, evaluation])
        for seed in seeds
    )
    return Entry(row, name, values, len(seeds), difference, mixed)


def _percent_by_seed(
    results: Results, method: str, seeds: Iterable[int], evaluation: str, key: str
) -> dict[int, float]:
    contents = {seed: results.get((method, seed, evaluation)) for seed in seeds}
    return {
        seed: 100 * content["metrics"][key]
        for seed, content in contents.items()
        if content is not None and key in content["metrics"]
    }


def _machine(content: Mapping[str, Any]) -> tuple[Any, ...]:
    """Processor, device and version of torch; if these are equal, a seed trains to the same weights."""
    machine = content.get("machine", {})
    return machine.get("processor"), machine.get("device"), machine.get("torch")


def _at_fractions(key: str, name: str, evaluation: str, results: Results) -> list[tuple[str, str]]:
    """Returns key and name of a metric at every measured label fraction; other evaluations have the metric itself only."""
    if not evaluation.endswith("-labels"):
        return [(key, name)]
    contents = [content for (_, _, each), content in results.items() if each == evaluation]
    fractions = sorted({fraction for content in contents for fraction in content["config"]["label_fraction"]}) or [1.0]
    data = contents[0]["data"] if contents else ""
    return [(with_fraction(key, value, fractions), f"{name}, {_share_of_labels(value, data)}") for value in fractions]


def _share_of_labels(fraction: float, data: str) -> str:
    """The share of labels in words; of camvid, the number of masks."""
    kind, _, counts = data.partition("-")
    if not kind.startswith("camvid"):
        return f"{fraction:.0%} of the labels"
    return f"{round(fraction * int(counts.split('-')[0]))} masks"


def bootstrap(
    counts: Mapping[str, tuple[int, int]], baseline_counts: Mapping[str, tuple[int, int]], *, seed: int = 0
) -> tuple[float, float, float]:
    """Difference of two accuracies in percentage points, with the 95 % interval of a bootstrap over source objects.

    In words: draw as many objects as there are, with replacement. Pool the correct answers and the images of the drawn
    objects, and take the difference of the two accuracies. Repeat `RESAMPLES` times; the interval reaches from the 2.5th
    to the 97.5th percentile. Encoders are not resampled, so the variation between trainings is not included.

    Args:
        counts, baseline_counts: (correct answers, images) by object; the same objects with as many images each.

    Returns:
        Mean, lower end and upper end.
    """
    names = sorted(counts)
    assert names == sorted(baseline_counts), "both encoders must be tested on the same objects"
    correct = np.array([counts[name][0] - baseline_counts[name][0] for name in names], float)
    images = np.array([counts[name][1] for name in names], float)
    drawn = np.random.Generator(np.random.PCG64(seed)).integers(len(names), size=(RESAMPLES, len(names)))
    differences = 100 * correct[drawn].sum(1) / images[drawn].sum(1)
    low, high = np.percentile(differences, (2.5, 97.5))
    return float(100 * correct.sum() / images.sum()), float(low), float(high)


def pool_objects(rows: list[Row], results: Results) -> dict[str, dict[str, tuple[int, int]]]:
    """Sums (correct answers, images) by source object over all seeds and folds; near-duplicates count as one object.

    Only seeds and folds count for which both a row and its baseline are measured.

    Returns:
        Counts by label (without its fold) and object; a row and its baseline have the same objects.
    """
    pools: dict[str, dict[str, tuple[int, int]]] = {}
    by_label = {row.label: row for row in rows}
    for row in rows:
        if row.baseline is None:
            continue
        pair = (row, by_label[row.baseline])
        for seed in row.seeds:
            contents = [results.get((each.method.name, seed, "objects")) for each in pair]
            for each, content in zip(pair, contents):
                if content is None or None in contents:
                    continue
                pool = pools.setdefault(without_fold(each.label), {})
                for name, (correct, images) in content["details"]["objects"].items():
                    group = group_of(name)
                    before = pool.get(group, (0, 0))
                    pool[group] = before[0] + correct, before[1] + images
    return pools


def without_fold(label: str) -> str:
    """Removes ", fold N" from a label."""
    head, comma, tail = label.partition(", fold ")
    return head + tail[1:] if comma else label
