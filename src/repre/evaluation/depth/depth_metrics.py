"""Metrics of depth over all known pixels of all test images (Eigen et al. 2014, arXiv 1406.2283, section 4.3).

y  predicted depth    y*  true depth
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

THRESHOLD = 1.25
"""A pixel counts in delta_k if max(y / y*, y* / y) is below this to the power of k."""
NAMES = ("delta1", "delta2", "delta3", "rmse", "abs_rel")


@dataclass
class DepthErrors:
    """Sums over pixels, in float64 on the CPU.

    Attributes:
        count: pixels of known depth.
    """

    count: int = 0
    _sums: Tensor = field(default_factory=lambda: torch.zeros(5, dtype=torch.float64))

    def add(self, predicted: Tensor, truth: Tensor) -> None:
        """Counts the pixels of an image whose true depth is known.

        Args:
            predicted, truth: in meters, of any equal shape, on one device; the truth is 0 where it is unknown.
        """
        known = truth > 0
        y, true = predicted[known].cpu().double(), truth[known].cpu().double()
        ratio = torch.maximum(y / true, true / y)
        errors = [*((ratio < THRESHOLD**k).sum() for k in (1, 2, 3)), (y - true).square().sum()]
        self._sums += torch.stack([*(error.double() for error in errors), ((y - true).abs() / true).sum()])
        self.count += int(known.sum())

    def metrics(self) -> dict[str, float]:
        """Returns delta1 to delta3 as shares, rmse in meters, and abs_rel, the mean of |y - y*| / y*."""
        means = (self._sums / max(1, self.count)).tolist()
        return dict(zip(NAMES, means)) | {"rmse": means[3] ** 0.5}
