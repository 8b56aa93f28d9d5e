"""What every table, sentence and picture of the evidence reads: the branch against the plain framework, by data and metric.

A comparison is one difference between RePre's defaults and the same framework without the branch. The same difference
may stand in several exploratory tables; the one with most pairs of seeds counts.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from experiments.all_presets import plan_of
from experiments.analysis import METRICS, Entry, Results, load_failures, load_results, load_trainings, table_entries
from experiments.methods import Row
from experiments.presets import Preset
from repre.evaluation.gains import Gain, gain
from repre.frameworks import framework_name

BRANCH = " + branch"
"""Suffix of the labels of rows with the branch."""
DEFAULTS = (BRANCH, ", defaults", ": default")
"""Suffixes of the labels of rows that have the branch with its defaults."""
FRAMEWORKS = {
    "moco-v3": "MoCo v3", "dino": "DINO", "dinov2": "DINOv2", "ibot": "iBOT", "moby": "MoBY", "byol": "BYOL",
    "simclr": "SimCLR", "pixels": "pixels",
}  # fmt: skip
"""Framework -> how it is written."""
DATA = {
    "camvid": "CamVid", "cifar10": "CIFAR-10", "fashion": "FashionScenes", "stamps": "StampScenes",
    "scenes": "drawn scenes", "fashion-mnist": "Fashion-MNIST",
}  # fmt: skip
"""Kind of data -> how it is written, in the order of the page: photographs first."""
IMAGE_METRICS = ("k-NN", "linear")
"""Metrics of whole images; all others are dense."""
FIXED_METRICS = {
    "confirmatory": ("object mIoU", "linear mIoU", "k-NN", "linear"),
    "camvid-confirmatory": ("linear mIoU", "linear mIoU, 36 masks"),
    "target-confirmatory": ("linear mIoU", "linear mIoU, 36 masks", "object mIoU", "k-NN", "linear"),
}
"""Table that was fixed before it was run -> the metrics of that comparison; others in the table are exploratory."""
MEANS_DECIDE = "confirmatory"
"""Table of which it was fixed that the means decide whether the goals are reached."""
SHARE = re.compile(r", (\d+)(% of the labels| masks)$")
"""End of the name of a metric for which the head saw so many labels."""
MIN_GAIN, MIN_AP_GAIN, MIN_CHANGE = 3.0, 2.0, -0.5
"""Goals in percentage points: gain in dense metrics, gain in AP, change of the metrics of whole images."""
MOST_STARTS = 3
"""More exploratory pairs of framework and encoder than these on one data set are shown as one mean."""
UNITS = {"seeds": "paired seeds", "folds": "folds", "pairs": "pairs of framework and encoder"}
"""What pairs are, in running text."""
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True)
class Study:
    """The plan and the results of one preset."""

    preset: Preset
    rows: list[Row]
    results: Results
    trainings: Mapping[tuple[str, int], dict[str, Any]]
    failures: list[dict[str, Any]] = field(default_factory=list)

    @cached_property
    def tables(self) -> dict[str, list[Entry]]:
        """Entries by table."""
        names = dict.fromkeys(row.table for row in self.rows)
        return {name: table_entries([row for row in self.rows if row.table == name], self.results) for name in names}


def load_study(folder: Path, preset: Preset) -> Study:
    """Loads the results of a preset.

    Args:
        folder: folder of the results of all presets.
    """
    folder = folder / preset.name
    return Study(
        preset, list(plan_of(preset).rows()), load_results(folder), load_trainings(folder), load_failures(folder)
    )


@dataclass(frozen=True)
class Comparison:
    """The branch with its defaults against the plain framework, in one metric."""

    preset: str
    data: str
    """Name of the images that both pre-trained on."""
    start: str
    """Framework and encoder, or how many pairs of them."""
    metric: str
    gain: Gain
    """In percentage points; its pairs are seeds, folds or pairs of framework and encoder."""
    unit: str = "seeds"
    """What one pair is: seeds, folds, or pairs of framework and encoder."""
    expected: int = 0
    """Number of pairs in the plan."""
    is_confirmatory: bool = False
    """Whether the comparison was fixed before it was run."""
    means_decide: bool = False
    """Whether it was fixed, too, that the mean decides."""
    note: str = ""
    """The preset, where another one measured the same data."""

    @property
    def is_dense(self) -> bool:
        """Whether the metric is of masks or boxes, not of whole images."""
        return self.metric not in IMAGE_METRICS

    @property
    def is_end_to_end(self) -> bool:
        """Whether the encoder was trained on with the head."""
        return is_end_to_end(self.metric)

    @property
    def is_few_labels(self) -> bool:
        """Whether the head saw a part of the labels."""
        return SHARE.search(self.metric) is not None

    @property
    def place(self) -> str:
        """Data and start in words."""
        return f"{self.shown_data}, {self.start}"

    @property
    def shown_data(self) -> str:
        """Data in words, with the preset where another one measured the same data."""
        return f"{self.data} ({self.note})" if self.note else self.data


def start_of(row: Row) -> str:
    """Framework and encoder of a row in words."""
    config = row.method.config
    encoder = "Swin" if config.encoder.name.startswith("swin") else "ViT"
    name = framework_name(config.framework)
    return f"{FRAMEWORKS.get(name, name)} + {encoder}"


def data_of(row: Row) -> str:
    """Name of the images that a row pre-trained on."""
    return DATA.get(row.method.data.kind, row.method.data.kind)


def data_and_setting(row: Row) -> tuple[str, str]:
    """Kind of data and setting of the branch of a row of table "harm"."""
    data, _, setting = row.label.partition(": ")
    return data, setting


def is_end_to_end(metric: str) -> bool:
    """Whether a metric is that of an encoder that was trained on with the head."""
    return "UPerNet" in metric or "AP" in metric or "end to end" in metric


def without_all_labels(metric: str, preset: Preset) -> str:
    """The name of a metric without its number of labels, if these are all of them."""
    match = SHARE.search(metric)
    is_all = match and int(match[1]) == (100 if match[2].startswith("%") else preset.counts("camvid").labeled)
    return metric[: match.start()] if match and is_all else metric


def comparisons(study: Study) -> list[Comparison]:
    """Returns every measured comparison of the branch's defaults with the plain framework, each once; folds are pooled."""
    best: dict[tuple[str, str, str, str, int], Entry] = {}
    for table, entries in study.tables.items():
        for entry in entries:
            row = entry.row
            if entry.gain is None or row.baseline is None or not row.label.endswith(DEFAULTS):
                continue
            metric = without_all_labels(entry.metric, study.preset)
            fixed = table if metric in FIXED_METRICS.get(table, ()) else ""
            key = (fixed, data_of(row), start_of(row), metric, row.method.data.fold)
            if key not in best or entry.pairs > best[key].pairs:
                best[key] = entry
    groups: dict[tuple[str, str, str, str], list[Entry]] = {}
    for (fixed, data, start, metric, _), entry in best.items():
        groups.setdefault((fixed, data, start, metric), []).append(entry)
    return [_comparison(study.preset.name, *key, found) for key, found in groups.items()]


def _comparison(preset: str, fixed: str, data: str, start: str, metric: str, found: list[Entry]) -> Comparison:
    gains = [entry.gain for entry in found if entry.gain is not None]
    unit, expected = ("seeds", found[0].row.n_seeds) if len(gains) == 1 else ("folds", len(gains))
    difference = gains[0] if len(gains) == 1 else pool([each.mean for each in gains])
    return Comparison(
        preset, data, start, metric, difference, unit, expected, fixed != "", means_decide=fixed == MEANS_DECIDE
    )


def small_data_comparisons(results: Path) -> list[Comparison]:
    """Returns the comparison of the recipe small-data on CamVid, from its own file; empty if the file is not there.

    Args:
        results: folder of the results of all presets.
    """
    path = results / "small-data.json"
    if not path.is_file():
        return []
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    plain, branch = (rows.get(f"camvid tiny/16@160 moco-v3 w{weight} lr0.0005 b64 s600 c0.2") for weight in (0, 10))
    if plain is None or branch is None:
        return []
    metrics = {"miou": "linear mIoU", "miou36": "linear mIoU, 36 masks"}
    return [
        Comparison(
            "small-data", "CamVid (recipe small-data)", "MoCo v3 + ViT", name, pool([100 * (branch[key] - plain[key])])
        )
        for key, name in metrics.items()
    ]


def pooled(found: Sequence[Comparison]) -> Comparison:
    """Returns the mean of comparisons in the same metric and data, with the interval over them; each counts once."""
    first = found[0]
    if len(found) == 1:
        return first
    difference = pool([each.gain.mean for each in found])
    return Comparison(first.preset, first.data, f"{len(found)} pairs", first.metric, difference, "pairs", len(found))


def by_place(found: Sequence[Comparison]) -> list[Comparison]:
    """Returns the comparisons in the order of the page; many exploratory pairs of framework and encoder on one data set
    become their mean."""
    starts: dict[tuple[str, str], set[str]] = {}
    groups: dict[tuple[str, str, str], list[Comparison]] = {}
    for each in found:
        if not each.is_confirmatory:
            starts.setdefault((each.preset, each.data), set()).add(each.start)
            groups.setdefault((each.preset, each.data, each.metric), []).append(each)
    result = [each for each in found if each.is_confirmatory]
    for (preset, data, _), group in groups.items():
        if len(starts[preset, data]) <= MOST_STARTS or len(group) == 1:
            result += group
        else:
            result.append(replace(pooled(group), start=f"{len(starts[preset, data])} pairs"))
    presets: dict[tuple[bool, str], set[str]] = {}
    for each in result:
        presets.setdefault((each.is_confirmatory, each.data), set()).add(each.preset)
    result = [
        replace(each, note=each.preset) if len(presets[each.is_confirmatory, each.data]) > 1 else each
        for each in result
    ]
    return sorted(result, key=_order)


def _order(found: Comparison) -> tuple[bool, int, str, bool]:
    """Those that were fixed beforehand first, then by data set and preset; metrics with all labels before those with few."""
    names = list(DATA.values())
    data = found.data.split(" (")[0]
    place = names.index(data) if data in names else len(names)
    return not found.is_confirmatory, place, found.preset, found.is_few_labels


def pool(differences: Sequence[float]) -> Gain:
    """Returns the mean of differences with the interval over them; each counts once."""
    return gain(differences, [0.0] * len(differences))


def against(entries: Sequence[Entry], label: str, other: str, metric: str) -> Gain | None:
    """Returns the difference of two rows of a table at equal seeds, whatever they are compared with there; None without
    a common seed."""
    values = {entry.row.label: entry.values for entry in entries if entry.metric == metric}
    first, second = values.get(label, {}), values.get(other, {})
    seeds = sorted(set(first) & set(second))
    return gain([first[seed] for seed in seeds], [second[seed] for seed in seeds]) if seeds else None


def primary_metric(preset: Preset) -> str:
    """Returns the name of the preset's primary metric."""
    return next(iter(METRICS[preset.primary].values()))


def count(number: int, unit: str = "seeds") -> str:
    """A number of pairs, such as `1 seed` or `5 seeds`."""
    return f"{number} {unit.removesuffix('s') if number == 1 else unit}"


def format_gain(difference: Gain) -> str:
    """Formats a difference in points with its interval, or in parentheses if it has none."""
    if difference.half is None:
        return f"({difference.mean:+.1f})"
    low, high = difference.mean - difference.half, difference.mean + difference.half
    return f"{difference.mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def short(difference: Gain, unit: str = "seeds") -> str:
    """A difference for tables, such as `+5.4 [+3.8, +7.0] (5 seeds)`."""
    return f"{format_gain(difference).strip('()')} ({count(difference.pairs, unit)})"


def quote(difference: Gain, unit: str = "seeds") -> str:
    """A difference for running text, such as `+5.4 points (95 % interval +3.8 to +7.0, five paired seeds)`."""
    number = NUMBERS[difference.pairs] if difference.pairs < len(NUMBERS) else str(difference.pairs)
    pairs = f"one {unit.removesuffix('s')}" if difference.pairs == 1 else f"{number} {UNITS[unit]}"
    if difference.half is None:
        return f"{difference.mean:+.1f} points ({pairs})"
    low, high = difference.mean - difference.half, difference.mean + difference.half
    return f"{difference.mean:+.1f} points (95 % interval {low:+.1f} to {high:+.1f}, {pairs})"
