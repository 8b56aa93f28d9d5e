"""Differences between two encoders at equal seeds, their intervals, and how both are written. Loads no torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from repre.evaluation.metric_units import is_share

T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
       2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042)  # fmt: skip
"""Two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom; the last one also serves for more."""
ROUNDING = 1e-9
"""Differences of metrics below this are rounding of floating-point numbers."""
MOST_DECIMALS = 6
"""Decimals of a difference, at most."""


@dataclass(frozen=True)
class Gain:
    """Difference between two encoders in one metric.

    Attributes:
        mean: of the differences at equal seeds.
        half: half the width of the 95 % interval; None if the seeds allow none.
        verdict: better, worse, no difference, or unknown with the reason.
        pairs: number of seeds at which both were measured.
    """

    mean: float
    half: float | None
    verdict: str
    pairs: int = 0


def gain(values: Sequence[float], baseline: Sequence[float], *, higher_is_better: bool = True) -> Gain:
    """Returns the gain of `values` over `baseline`, a metric at the same seeds in the same order.

    The interval is that of Student's t. It covers what the seeds change, not the choice of the test images.

    Raises:
        ValueError: they are not equally many, or there are none.
    """
    differences = [value - base for value, base in zip(values, baseline, strict=True)]
    if not differences:
        raise ValueError("a gain needs at least one pair of values")
    count, average = len(differences), sum(differences) / len(differences)
    if not math.isfinite(average):
        return Gain(average, None, "unknown: a value is not a number", count)
    if count < 2:
        return Gain(average, None, "unknown: one seed", count)
    spread = deviation(differences)
    if spread < ROUNDING:
        verdict = "no difference" if abs(average) < ROUNDING else "unknown: the seeds change nothing"
        return Gain(average, None, verdict, count)
    half = T95[min(count - 2, len(T95) - 1)] * spread / math.sqrt(count)
    if abs(average) <= half:
        return Gain(average, half, "no difference", count)
    return Gain(average, half, "better" if (average > 0) == higher_is_better else "worse", count)


def deviation(values: Sequence[float]) -> float:
    """Sample standard deviation of two or more values."""
    average = sum(values) / len(values)
    return math.sqrt(sum((value - average) ** 2 for value in values) / (len(values) - 1))


def all_equal(values: Sequence[float]) -> bool:
    """Whether two or more values are the same: whatever was evaluated does not depend on the seed."""
    return len(values) > 1 and max(values) - min(values) < ROUNDING


def describe_gain(metric: str, mean: float, half: float | None) -> str:
    """A difference with half its interval, such as ``+1.04 ± 0.48``: in points for shares, else in the metric's unit.

    It has as many decimals as the interval needs, and a difference that is not 0 keeps its sign.
    """
    factor = 100 if is_share(metric) else 1
    sizes = [abs(factor * value) for value in (mean, half) if value is not None and math.isfinite(value)]
    smallest = min((size for size in sizes if size >= factor * ROUNDING), default=1.0)
    decimals = max(2, min(MOST_DECIMALS, 1 - math.floor(math.log10(smallest)))) if smallest < 0.1 else 2
    text = f"{factor * mean:+.{decimals}f}" if abs(mean) >= ROUNDING or math.isnan(mean) else f"{0:.{decimals}f}"
    return text if half is None else f"{text} ± {factor * half:.{decimals}f}"
