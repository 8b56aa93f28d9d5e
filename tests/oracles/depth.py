"""Slow and simple implementations of what depth regression computes."""

import math

from torch import Tensor

from repre.evaluation.depth.depth_loss import SCALE_SHARE


def scale_invariant_loss(log_depth: Tensor, depth: Tensor) -> float:
    """Eigen et al. 2014, equation 4, as mean over the images with any known depth."""
    losses = []
    for predicted, truth in zip(log_depth[:, 0].tolist(), depth.tolist()):
        d = [p - math.log(t) for row, true_row in zip(predicted, truth) for p, t in zip(row, true_row) if t > 0]
        if d:
            losses.append(sum(x**2 for x in d) / len(d) - SCALE_SHARE * sum(d) ** 2 / len(d) ** 2)
    return sum(losses) / len(losses) if losses else 0.0


def depth_metrics(pairs: list[tuple[float, float]]) -> dict[str, float]:
    """Metrics of pixels (predicted, true), by their definitions."""
    known = [(y, t) for y, t in pairs if t > 0]
    n = len(known)
    deltas = {f"delta{k}": sum(max(y / t, t / y) < 1.25**k for y, t in known) / n for k in (1, 2, 3)}
    rmse = math.sqrt(sum((y - t) ** 2 for y, t in known) / n)
    return {**deltas, "rmse": rmse, "abs_rel": sum(abs(y - t) / t for y, t in known) / n}
