"""The table of results in a model card: of the exported weights only, with data, settings, seeds, gains over random init.

It contains no paths: data of the user are called own data, with a letter for each.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repre.config_values import to_dict
from repre.data.io.torchvision_sets import DATA_SETS
from repre.errors import counted
from repre.evaluation.gains import all_equal, describe_gain, deviation
from repre.evaluation.metric_units import describe_value
from repre.evaluation.registry import EVALUATIONS
from repre.evaluation.result_groups import (
    RANDOM_INIT,
    Result,
    ResultGroup,
    data_key,
    evaluated_size,
    flatten,
    gain_over,
    group_results,
    is_tested_on_training,
    tested_images,
    weights_hash,
)
from repre.evaluation.runner import results_folder
from repre.models.resolve import ResolvedEncoder

PUBLIC = ("scenes", "imagenet", "voc", "ade20k", *DATA_SETS)
"""Data sets that a card may name, the part before the colon."""
ALWAYS = ("head", "features", "frozen")
"""Settings that a card names even if they are the defaults."""
NEVER = ("data", "test", "seed", "size", "value_range")
"""Settings that are in other columns, or about the user's files."""
COLUMNS = ("evaluation", "data", "settings", "seeds", "metric", "value", "over random init")


def result_table(resolved: ResolvedEncoder) -> list[str]:
    """Returns the lines of a Markdown table with the results that are stored about these very weights; none without any."""
    if resolved.config.weights in (None, "hub"):
        return []
    folder = results_folder(resolved)
    fingerprint = resolved.fingerprint
    groups = group_results([result for result in _read(folder) if weights_hash(result) == fingerprint])
    untrained = group_results(_read(folder / RANDOM_INIT))
    letters: dict[str, str] = {}
    rows = [
        row
        for group in groups
        if not group.conflicts
        for row in _rows(group, untrained, data=_data(group.first, letters))
    ]
    if not rows:
        return []
    return [_line(COLUMNS), "|---" * len(COLUMNS) + "|", *rows]


def _rows(group: ResultGroup, untrained: Sequence[ResultGroup], *, data: str) -> list[str]:
    """A line for each metric that all seeds have, the main one first."""
    shared = set.intersection(*(set(result["metrics"]) for result in group.results))
    names = [name for name in shared - {group.main} if len(group.metric(name)) == len(group.seeds)]
    evaluation, seeds = str(group.first.get("evaluation")), ", ".join(map(str, group.seeds))
    return [
        _line(
            (evaluation, data, _settings(group.first), seeds, name, _value(group, name), _over(group, untrained, name))
        )
        for name in [group.main, *sorted(names)]
    ]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _read(folder: Path) -> list[Result]:
    """The stored results of a folder; files of other content are left out."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            result["metrics"][result["main"]]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        found.append(result)
    return found


def _data(result: Result, letters: dict[str, str]) -> str:
    """The data with their numbers of images, without paths."""
    config, details = result.get("config") or {}, result.get("details") or {}
    text = _name(str(config.get("data")), json.dumps(data_key(result)), letters)
    if config.get("test"):
        text += f", tested on {_name(str(config['test']), str(config['test']), letters)}"
    tested = tested_images(details)
    counts = [
        f"{count} {use}" for count, use in ((details.get("train_images"), "to train"), (tested, "to test")) if count
    ]
    text = f"{text} ({' and '.join(counts)})" if counts else text
    return f"{text}, tested on the training images" if is_tested_on_training(result) else text


def _name(spec: str, identity: str, letters: dict[str, str]) -> str:
    kind = spec.partition(":")[0]
    if kind in PUBLIC and not Path(spec).exists():
        return spec if kind == "scenes" else kind
    key = f"{spec} {identity}"
    letters.setdefault(key, chr(ord("A") + len(letters)) if len(letters) < 26 else str(len(letters) + 1))
    return f"own data {letters[key]}"


def _settings(result: Result) -> str:
    """The size of the images, and the settings that are not the defaults."""
    config = flatten(result.get("config") or {})
    entry = EVALUATIONS.get(str(result.get("evaluation")))
    defaults = flatten(json.loads(json.dumps(to_dict(entry.config()), default=str))) if entry is not None else {}
    chosen = {
        name: value
        for name, value in config.items()
        if name not in NEVER and (name in ALWAYS or (name in defaults and value != defaults[name]))
    }
    size = evaluated_size(result)
    sides = list(dict.fromkeys(size if isinstance(size, list) else [size]))
    parts = [f"{' x '.join(map(str, sides))} px"] if size else []
    return ", ".join([*parts, *(f"{name} {_plain(value)}" for name, value in chosen.items() if value is not None)])


def _plain(value: Any) -> str:
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return "of its own" if "/" in text or "\\" in text else text


def _value(group: ResultGroup, metric: str) -> str:
    values = group.metric(metric)
    mean = describe_value(metric, sum(values) / len(values))
    if len(values) < 2:
        return mean
    return f"{mean} at each seed" if all_equal(values) else f"{mean} ± {describe_value(metric, deviation(values))}"


def _over(group: ResultGroup, untrained: Sequence[ResultGroup], metric: str) -> str:
    """The gain over the same model at random init at equal settings and seeds."""
    if (found := gain_over(group, untrained, metric)) is None:
        return ""
    return f"{describe_gain(metric, found.mean, found.half)} ({counted(found.pairs, 'pair')})"
