"""How metrics are written, and which of them are better when lower. It loads no torch, for the report.

Most metrics are shares in [0, 1] and are written in percent, their differences in points.
"""

from typing import NamedTuple


class Kind(NamedTuple):
    """How a metric that is no share is written."""

    unit: str
    """What follows the number; empty for a number without a unit."""
    higher_is_better: bool


OTHER = {"rmse": Kind("m", higher_is_better=False), "abs_rel": Kind("", higher_is_better=False)}
"""Metrics that are no shares, by their names without a label fraction."""


def metric_kind(name: str) -> Kind | None:
    """What is special about a metric, such as ``rmse@0.1``; None for a share."""
    return OTHER.get(name.partition("@")[0])


def is_share(name: str) -> bool:
    """Whether a metric is written in percent."""
    return metric_kind(name) is None


def describe_value(name: str, value: float) -> str:
    """A metric with its unit, such as ``71.20 %`` or ``0.543 m``."""
    kind = metric_kind(name)
    return f"{100 * value:.2f} %" if kind is None else f"{value:.4g} {kind.unit}".rstrip()
