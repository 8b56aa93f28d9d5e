"""Groups stored results by what may be averaged: one evaluation with one config, on the same data, of the same weights.

Within a group only the seed differs, and every seed counts once. Reads plain values, as the JSON files hold them, and loads
no torch, because the report and the model card use it. Files may be of any version: what is missing is a value of its own.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from repre.data.labels.same_images import SAME_IMAGES
from repre.evaluation.gains import Gain, gain
from repre.evaluation.metric_units import metric_kind

Result = dict[str, Any]
"""Content of a stored result, see `repre.evaluation.runner`."""
NOT_ARCHITECTURE = ("weights", "allow_partial", "drop_path", "grad_checkpointing", "freeze_patch_embed", "init")
"""Settings of an encoder that change no feature of given weights."""
EVALUATIONS, RANDOM_INIT = "evaluations", "random-init"
"""Names of the folders of results, and of those of the model at random init."""
RANDOM = "random"
"""Identity of the weights of an encoder at random init."""
SEPARATELY = ("seed", "data")
"""Settings that a table shows in columns of their own."""
FILES, IMAGES = "files of the data", "number of images"


@dataclass(frozen=True)
class ResultGroup:
    """Results that differ in their seeds only.

    Attributes:
        results: one per seed whose main metric is a number, by seed.
        not_numbers: seeds whose main metric is no finite number; they are in no mean.
        conflicts: seeds with several results that differ; the first one counts.
    """

    results: list[Result]
    not_numbers: list[int]
    conflicts: list[int]

    @property
    def first(self) -> Result:
        """The first of the results."""
        return self.results[0]

    @property
    def main(self) -> str:
        """Name of the main metric."""
        return str(self.first["main"])

    @property
    def seeds(self) -> list[int]:
        """The distinct seeds."""
        return [seed_of(result) for result in self.results]

    @property
    def values(self) -> list[float]:
        """The main metric of every seed."""
        return self.metric(self.main)

    @property
    def mean(self) -> float:
        """Mean of the main metric."""
        return math.fsum(self.values) / len(self.values)

    @property
    def by_seed(self) -> dict[int, Result]:
        """The results by their seeds."""
        return dict(zip(self.seeds, self.results))

    def metric(self, name: str) -> list[float]:
        """The values of a metric, of the seeds that have it as a number."""
        return [value for result in self.results if (value := number(result["metrics"].get(name))) is not None]


def group_results(results: Sequence[Result]) -> list[ResultGroup]:
    """Groups results by evaluation, config, data, encoder and weights; groups without any number are left out."""
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for result in sorted(results, key=lambda result: (str(result.get("evaluation")), seed_of(result))):
        groups.setdefault((task_key(result), encoder_key(result), weights_key(result)), []).append(result)
    return [group for members in groups.values() if (group := _distinct(members)).results]


def _distinct(results: Sequence[Result]) -> ResultGroup:
    by_seed: dict[int, Result] = {}
    not_numbers, conflicts = [], []
    for result in results:
        seed, value = seed_of(result), number(result["metrics"].get(str(result["main"])))
        if value is None:
            not_numbers.append(seed)
        elif seed not in by_seed:
            by_seed[seed] = result
        elif value != number(by_seed[seed]["metrics"].get(str(result["main"]))):
            conflicts.append(seed)
    return ResultGroup(list(by_seed.values()), not_numbers, sorted(set(conflicts)))


def task_key(result: Result) -> str:
    """What was measured: evaluation, main metric, config without the seed, data. Equal for encoders that may be compared."""
    known = data_key(result)[0] is not None  # then the files count, however the user named them
    left = ("seed", "data", "test") if known else ("seed",)
    config = {name: value for name, value in _dict(result.get("config")).items() if name not in left}
    content = [result.get("format"), result.get("evaluation"), result.get("main"), config, data_key(result)]
    return json.dumps(content, sort_keys=True, default=str)


def data_key(result: Result) -> list[Any]:
    """The files of the data and the numbers of images, as far as the result has them."""
    details = _dict(result.get("details"))
    return [details.get(name) for name in ("data_identity", "train_images", "test_images", "val_images")]


def is_tested_on_training(result: Result) -> bool:
    """Whether the test images were the training images."""
    notes = _dict(result.get("details")).get("notes")
    return isinstance(notes, list) and SAME_IMAGES in notes


def encoder_key(result: Result) -> str:
    """The architecture of the encoder, and the size and the normalization of the images that it saw."""
    encoder = {name: value for name, value in _dict(result.get("encoder")).items() if name not in NOT_ARCHITECTURE}
    return json.dumps([encoder, evaluated_size(result), result.get("pixels")], sort_keys=True, default=str)


def weights_key(result: Result) -> str:
    """The hash of the weights; for a result without one a text of its own for every way in which the encoder was named."""
    return weights_hash(result) or f"no hash: {result.get('start')}"


def weights_hash(result: Result) -> str:
    """The hash of the weights that were evaluated; empty if the result has none."""
    return str(_dict(result.get("encoder")).get("weights") or "")


def evaluated_size(result: Result) -> Any:
    """Side, or height and width, of the images that the encoder saw; None if the result does not say it."""
    return _dict(result.get("details")).get("size") or _dict(result.get("config")).get("size")


def tested_images(details: Mapping[str, Any]) -> Any:
    """The number of test images in the details of a result, which dense evaluations call by another name; None without."""
    return details.get("test_images", details.get("val_images"))


def higher_is_better(result: Result, metric: str) -> bool:
    """Whether a higher value of a metric of a result is better."""
    kind = metric_kind(metric)
    return result.get("higher_is_better") is not False if kind is None else kind.higher_is_better


def seed_of(result: Result) -> int:
    """The seed; 0 if there is none."""
    return int(number(result.get("seed")) or 0)


def number(value: Any) -> float | None:
    """A finite number as float; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300 or not math.isfinite(value):
        return None
    return float(value)


def paired(group: ResultGroup, baselines: Sequence[ResultGroup], metric: str) -> list[tuple[float, float]]:
    """The values of a metric and of a baseline at equal seeds: same task, same architecture, same size.

    Args:
        baselines: groups of one baseline, such as the model at random init; only the one that fits is used.
    """
    mine = task_key(group.first), encoder_key(group.first)
    for baseline in baselines:
        if (task_key(baseline.first), encoder_key(baseline.first)) == mine:
            others = baseline.by_seed
            pairs = [
                (number(result["metrics"].get(metric)), number(others[seed]["metrics"].get(metric)))
                for seed, result in group.by_seed.items()
                if seed in others
            ]
            return [(value, base) for value, base in pairs if value is not None and base is not None]
    return []


def gain_over(group: ResultGroup, baselines: Sequence[ResultGroup], metric: str) -> Gain | None:
    """The gain in a metric over a baseline at equal seeds, see `paired`; None without one to compare with."""
    if not (pairs := paired(group, baselines, metric)):
        return None
    values, others = zip(*pairs)
    return gain(values, others, higher_is_better=higher_is_better(group.first, metric))


def distinguish(groups: Sequence[ResultGroup]) -> list[str]:
    """What tells each group from the others of its evaluation, such as ``crop_pct 0.9``; empty where nothing does."""
    texts = []
    for group in groups:
        mine = _flat(group)
        peers = [_flat(other) for other in groups if _about(other) == _about(group)]
        names = dict.fromkeys(name for peer in peers for name in peer if name not in SEPARATELY)
        differing = [name for name in names if len({json.dumps(peer.get(name), default=str) for peer in peers}) > 1]
        parts = [_setting(name, mine[name]) if name in mine else f"{name} not recorded" for name in differing]
        texts.append(", ".join(parts))
    return texts


def _about(group: ResultGroup) -> tuple[str, str]:
    """The evaluation and the data, which have columns of their own."""
    return str(group.first.get("evaluation")), str(_dict(group.first.get("config")).get("data"))


def _flat(group: ResultGroup) -> dict[str, Any]:
    """What defines a group besides its weights, by dotted names."""
    first = group.first
    identity, *counts = data_key(first)
    encoder = {name: value for name, value in _dict(first.get("encoder")).items() if name not in NOT_ARCHITECTURE}
    flat = flatten(_dict(first.get("config"))) | flatten(encoder, "encoder.") | flatten(_dict(first.get("pixels")))
    known = {"size": evaluated_size(first), FILES: identity, IMAGES: [count for count in counts if count is not None]}
    return flat | {name: value for name, value in known.items() if value is not None and value != []}


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {prefix + name: value}
    return flat


def _setting(name: str, value: Any) -> str:
    if name == FILES:
        return f"{FILES} {str(value)[:6]}"
    if name == IMAGES:
        return f"{IMAGES} {' and '.join(map(str, value))}"
    return f"{name} {_plain(value)}"


def _plain(value: Any) -> str:
    """A setting as an option of the command line takes it."""
    if isinstance(value, list | tuple):
        return " ".join(map(str, value)) if value else "none"
    return "none" if value is None else str(value)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
