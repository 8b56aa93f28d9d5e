"""The same evaluations and seeds for several encoders: mean and spread of each, and the gain over random init.

Everything is checked before the first evaluation: encoders, settings, labels of all data. A gain is the mean difference at
equal seeds (`repre.evaluation.gains`); with one seed, or if the seeds change nothing, nothing is claimed. `repre.evaluation.
comparison_tables` writes the rows.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from repre.data.labels.same_images import SAME_IMAGES
from repre.errors import UserError, counted
from repre.evaluation.gains import Gain, all_equal, deviation, gain
from repre.evaluation.registry import evaluation
from repre.evaluation.result_groups import (
    EVALUATIONS,
    RANDOM,
    evaluated_size,
    higher_is_better,
    is_tested_on_training,
    number,
    tested_images,
    weights_hash,
)
from repre.evaluation.runner import can_be_written, evaluate, results_folder, slug
from repre.models.resolve import ResolvedEncoder, resolve_encoder
from repre.utils.printable_text import say

Results = dict[tuple[str, str], list[dict[str, Any]]]
"""Stored results over the seeds, by evaluation and encoder."""


@dataclass(frozen=True)
class Row:
    """One encoder in one metric of one evaluation.

    Attributes:
        evaluation, metric, encoder: names.
        values: the metric at seeds 0, 1, ...; NaN where a result has no number.
        over_random, over_supervised: gains; None for the baseline itself, without a supervised encoder, or where the two
            were not measured in the same way.
        seconds: average duration of one run of the evaluation, which gives all its metrics.
        size: side, or height and width, of the images that the encoder saw; None if that is not known.
        images: number of test images.
        weights: hashes of the evaluated weights.
    """

    evaluation: str
    metric: str
    encoder: str
    values: tuple[float, ...]
    over_random: Gain | None
    over_supervised: Gain | None
    seconds: float
    size: Any = None
    images: int | None = None
    weights: tuple[str, ...] = ()

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return sum(self.values) / len(self.values)

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds; None for one seed, or if the seeds change nothing."""
        return deviation(self.values) if len(self.values) > 1 and not all_equal(self.values) else None


@dataclass(frozen=True)
class Comparison:
    """The rows of a comparison, what to know about them, and the results behind them."""

    rows: list[Row]
    notes: list[str]
    results: Results = field(repr=False)


def compare(
    encoders: Sequence[str],
    configs: dict[str, Any],
    *,
    seeds: int,
    out: Path,
    supervised: str | None = None,
    log: Callable[[str], None] = say,
) -> Comparison:
    """Evaluates every encoder with every config and seed.

    Results lie beside their encoders; below `out` where an encoder has no place of its own, or one that cannot be written.

    Args:
        encoders: specs for `resolve_encoder`. Specs joined by commas are replicas of one encoder, such as runs with
            different seeds; the seeds take turns. Without a random:NAME, the first model at random init is added.
        configs: configs by the names of their evaluations; their seeds are replaced.
        seeds: number of seeds; every evaluation runs with seeds 0, 1, ..., seeds - 1.
        out: folder of the comparison.
        supervised: one of `encoders`; the gain over it is computed as well.
        log: prints a message.

    Raises:
        UserError: a mistake in an encoder, a setting or the data, found before the first evaluation; or `out` cannot be
            written.
    """
    if seeds < 1:
        raise UserError(f"--seeds must be at least 1, not {seeds}")
    if not configs:
        raise UserError("--eval needs at least one evaluation")
    names = list(dict.fromkeys(encoders))
    if not names:
        raise UserError("name at least one encoder")
    random = next((name for name in names if name.startswith("random:")), None)
    if random is None:
        random = f"random:{split_replicas(names[0])[0].removeprefix('hub:')}"
        log(f"added {random}, to compute the gain over random init")
        names.append(random)
    if supervised is not None and supervised not in names:
        raise UserError(f"--supervised {supervised} is not one of the encoders: {', '.join(names)}")
    if not can_be_written(out):
        raise UserError(f"--out {out} cannot be written; name another folder")
    replicas = _resolve(names)
    notes = check_replicas(replicas, seeds=seeds)
    for note in notes:
        log(note)
    identities = {
        (name, spec): _check(name, config, members)
        for name, config in configs.items()
        for spec, members in replicas.items()
    }
    results: Results = {}
    count = len(configs) * len(names) * seeds
    for evaluation_name, config in configs.items():
        for name in names:
            for seed in range(seeds):
                resolved = replicas[name][seed % len(replicas[name])]
                finished = 1 + sum(map(len, results.values()))
                log(f"{finished}/{count}: {evaluation_name} of {resolved.spec}, seed {seed}")
                result = evaluate(
                    evaluation_name,
                    resolved,
                    replace(config, seed=seed),
                    out=_place(resolved, out),
                    also_in=results_folder(resolved),
                    reuse=True,
                    keep_model=False,
                    data_identity=identities[evaluation_name, name],
                )
                results.setdefault((evaluation_name, name), []).append(result)
    rows = build_rows(results, random=random, supervised=supervised)
    same = dict.fromkeys(name for (name, _), runs in results.items() if is_tested_on_training(runs[0]))
    notes += [f"{name}: {SAME_IMAGES}." for name in same]
    return Comparison(rows, [*notes, *notes_on(rows, random=random, supervised=supervised)], results)


def split_replicas(name: str) -> list[str]:
    """Splits specs that commas join; commas within brackets belong to the arguments of a timm model."""
    return re.split(r",(?![^\[]*\])", name)


def _resolve(names: Sequence[str]) -> dict[str, list[ResolvedEncoder]]:
    """The replicas of every encoder. If one was trained with a declared pixel range, those without one get it too."""
    replicas = {name: [resolve_encoder(spec) for spec in split_replicas(name)] for name in names}
    ranges = [resolved.value_range for members in replicas.values() for resolved in members if resolved.value_range]
    declared = next(iter(ranges), None)
    return {
        name: [replace(resolved, value_range=resolved.value_range or declared) for resolved in members]
        for name, members in replicas.items()
    }


def check_replicas(replicas: dict[str, list[ResolvedEncoder]], *, seeds: int) -> list[str]:
    """Returns notes on encoders that are the same weights, and on replicas that are used unequally often.

    Raises:
        UserError: replicas of one encoder are the same weights, or there are fewer seeds than replicas.
    """
    notes: list[str] = []
    first: dict[str, str] = {}
    for name, members in replicas.items():
        if len(members) > seeds:
            raise UserError(
                f"{name} has {len(members)} replicas, but --seeds {seeds} uses only the first {seeds}; give --seeds "
                f"{len(members)}, or a multiple of it"
            )
        hashes: dict[str, str] = {}
        for resolved in members:
            if (weights := resolved.fingerprint) == RANDOM:
                continue
            identity = f"{resolved.config.name} {resolved.config.model_args} {weights}"
            if identity in hashes:
                raise UserError(
                    f"{hashes[identity]} and {resolved.spec} are the same weights, not replicas; name each once"
                )
            hashes[identity] = resolved.spec
            if identity in first:
                notes.append(f"{first[identity]} and {resolved.spec} are the same weights")
            first.setdefault(identity, resolved.spec)
        if seeds % len(members):
            notes.append(f"{name}: {seeds} seeds use its {len(members)} replicas unequally often")
    return notes


def _check(name: str, config: Any, members: Sequence[ResolvedEncoder]) -> str | None:
    """Opens the data of an evaluation for every replica; returns their identity, None where the evaluation cannot tell."""
    check, identity = evaluation(name).check, None
    for resolved in members if check is not None else ():
        assert check is not None
        try:
            identity = check(resolved, config)
        except UserError as error:
            raise UserError(f"{name} of {resolved.spec}: {error}") from error
    return identity


def _place(resolved: ResolvedEncoder, out: Path) -> Path:
    """The folder for new results of an encoder."""
    own = results_folder(resolved)
    has_place = resolved.folder is not None or resolved.config.weights not in (None, "hub")
    return own if has_place and can_be_written(own) else out / EVALUATIONS / slug(resolved.spec)


def build_rows(results: Results, *, random: str, supervised: str | None) -> list[Row]:
    """Returns a row per metric that all encoders of an evaluation have, the main metric first.

    Args:
        random, supervised: names of the encoders that gains are computed over.
    """
    rows = []
    for evaluation_name in dict.fromkeys(name for name, _ in results):
        by_encoder = {encoder: runs for (name, encoder), runs in results.items() if name == evaluation_name}
        first = next(iter(by_encoder.values()))[0]
        shared = set.intersection(*(set(result["metrics"]) for runs in by_encoder.values() for result in runs))
        for metric in [first["main"], *sorted(shared - {first["main"]})]:
            higher = higher_is_better(first, metric)
            values = {
                encoder: [float(result["metrics"].get(metric, "nan")) for result in runs]
                for encoder, runs in by_encoder.items()
            }
            sizes = {encoder: _size(runs) for encoder, runs in by_encoder.items()}
            for encoder, runs in by_encoder.items():
                over_random, over_supervised = (
                    gain(values[encoder], values[baseline], higher_is_better=higher)
                    if baseline is not None and baseline != encoder and sizes[baseline] == sizes[encoder]
                    else None
                    for baseline in (random, supervised)
                )
                rows.append(
                    Row(
                        evaluation_name,
                        metric,
                        encoder,
                        tuple(values[encoder]),
                        over_random,
                        over_supervised,
                        seconds=sum(result["seconds"] for result in runs) / len(runs),
                        size=sizes[encoder],
                        images=tested_images(runs[0].get("details", {})),
                        weights=tuple(dict.fromkeys(weights_hash(result) for result in runs)),
                    )
                )
    return rows


def notes_on(rows: Sequence[Row], *, random: str, supervised: str | None) -> list[str]:
    """Returns what to know about a table: what gains are over and what they leave out."""
    notes = [f"Random init is {random}" + (f", supervised {supervised}." if supervised else ".")]
    same = dict.fromkeys(f"{row.evaluation} of {row.encoder}" for row in rows if all_equal(row.values))
    if same:
        notes.append(f"The seeds change nothing in {', '.join(same)}: each is one measurement.")
    for name in dict.fromkeys(row.evaluation for row in rows):
        mine = [row for row in rows if row.evaluation == name]
        sizes = dict.fromkeys(f"{row.encoder} {_pixels(row.size)}" for row in mine)
        if len({_pixels(row.size) for row in mine}) > 1:
            notes.append(
                f"{name} saw images of different sizes ({', '.join(sizes)}); no gain is computed between them. Give "
                f"--{name}.size to compare at one size."
            )
        if mine[0].images is not None:
            images = counted(mine[0].images, "test image")
            notes.append(f"{name}: {images}. The intervals cover the seeds, not the choice of the test images.")
        missing = [
            f"{row.metric} of {row.encoder}" for row in mine if any(number(value) is None for value in row.values)
        ]
        if missing:
            notes.append(f"{name}: not a number: {', '.join(missing)}.")
    return notes


def _size(runs: Sequence[dict[str, Any]]) -> Any:
    """The size at which an encoder was evaluated; a list of several where its replicas differ."""
    sizes = [_as_pair(evaluated_size(run)) for run in runs]
    return sizes[0] if all(size == sizes[0] for size in sizes) else sizes


def _as_pair(size: Any) -> Any:
    """A size as height and width."""
    return [size, size] if isinstance(size, int) else list(size) if isinstance(size, tuple) else size


def _pixels(size: Any) -> str:
    if isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) for side in size):
        return f"{size[0]} px" if size[0] == size[1] else f"{size[0]} x {size[1]} px"
    return "at an unknown size" if size is None else "at several sizes"
