"""The pixels that start weights expect: a run normalizes its images as theirs were, unless its config says otherwise."""

from dataclasses import replace
from pathlib import Path

from repre.config import RunConfig, load_yaml
from repre.models.load_report import LoadReport
from repre.models.weight_files import numbers_in_words, run_settings, statistics_of
from repre.training.checkpoint import checkpoint_file

DIGITS = 6
"""Digits of the statistics that a config records."""
Pair = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of every channel."""


def with_statistics(config: RunConfig) -> RunConfig:
    """A config with the mean and standard deviation of its start weights, or of the run that it starts from, if it gives
    none and theirs are not the usual ones. A run that has begun keeps those that it has.

    Raises:
        UserError: there are no such weights.
    """
    if config.views.mean is not None or (config.encoder.weights is None and config.start_from is None):
        return config
    recorded = Path(config.out) / "config.yaml"
    if config.out and recorded.is_file():
        views = load_yaml(recorded).views
        return replace(config, views=replace(config.views, mean=views.mean, std=views.std))
    expected = _expected(config)
    if expected is None or _same(expected, _used(config)) or len(expected[0]) != config.encoder.channels:
        return config
    return replace(config, views=replace(config.views, mean=expected[0], std=expected[1]))


def describe_start(report: LoadReport | None, config: RunConfig) -> str | None:
    """What became of the start weights, and how pixels are normalized, in one line; None at random init."""
    if report is None or config.encoder.weights is None:
        return None
    (mean, std), expected = _used(config), _expected(config)
    words = f"{report}; pixels with mean {numbers_in_words(mean)} and std {numbers_in_words(std)}"
    if expected is not None and not _same(expected, (mean, std)):
        theirs = f"mean {numbers_in_words(expected[0])} and std {numbers_in_words(expected[1])}"
        return f"{words}, while the weights expect {theirs}"
    _, source = statistics_of(config.encoder.weights, config.encoder.name)
    return f"{words} ({source})" if config.views.mean is None or expected is not None else words


def _expected(config: RunConfig) -> Pair | None:
    """What the start weights expect; None where nothing says."""
    if config.start_from is not None:
        path = checkpoint_file(config.start_from)
        run = path if path.is_dir() else path.parent.parent
        views = run_settings(run / "checkpoints" / "last.pt").get("views")
        mean, std = (views.get("mean"), views.get("std")) if isinstance(views, dict) else (None, None)
    else:
        pixels, _ = statistics_of(str(config.encoder.weights), config.encoder.name)
        mean, std = pixels.mean, pixels.std
    if not mean or not std:
        return None
    return tuple(round(value, DIGITS) for value in mean), tuple(round(value, DIGITS) for value in std)


def _used(config: RunConfig) -> Pair:
    """What the views of a run are normalized with."""
    mean, std = config.views.statistics(config.encoder.channels)
    return tuple(mean.flatten().tolist()), tuple(std.flatten().tolist())


def _same(one: Pair, other: Pair) -> bool:
    values = [*one[0], *one[1]], [*other[0], *other[1]]
    return len(values[0]) == len(values[1]) and all(abs(a - b) < 10**-DIGITS for a, b in zip(*values))
