"""Random numbers without state: a function of the seed, the epoch, the view, the operation and the sample's position.

Every operation has a stream of its own, so that adding one, or drawing more numbers for one, changes no other draw. Nothing
depends on how samples are divided among batches, ranks and workers.

    B  samples    N  random numbers of a sample    V  views
"""

from enum import IntEnum
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from repre.errors import UserError


class Operation(IntEnum):
    """Random operations by the number of their stream. A number never changes and is never used again, so that a resumed
    run sees the same views with every version of this package."""

    CROP = 0
    FLIP = 1
    JITTER = 2
    GRAYSCALE = 3
    BLUR = 4
    SOLARIZE = 5
    PATCH_MASK = 6
    LABELED_CROP = 7
    BLOCK_MASK = 8
    MASK_RATIO = 9


class RandomStreams:
    """The random numbers of some samples.

    Philox (Salmon et al., SC 2011, "Parallel random numbers: as easy as 1, 2, 3") is a function of (key, counter). The key
    is (seed, epoch, view, operation), the counter is the position. Runs of consecutive positions are drawn at once.

    Args:
        seed: seed of the run, from 0 to 2**64 - 1.
        epoch: epoch, counted from 0.
        positions: positions of the samples in the order of the epoch, int64 [B].

    Raises:
        UserError: the seed is out of range.
    """

    def __init__(self, *, seed: int, epoch: int, positions: Tensor) -> None:
        if not 0 <= seed < 2**64:
            raise UserError(f"seed={seed}: give a whole number from 0 to 2**64 - 1")
        assert 0 <= epoch < 2**32, epoch
        self.seed, self.epoch = seed, epoch
        order = positions.cpu().numpy()
        assert (order >= 0).all(), "positions count from 0"
        breaks = [0, *(np.flatnonzero(np.diff(order) != 1) + 1).tolist(), len(order)]
        self._runs = [(int(order[a]), b - a) for a, b in pairwise(breaks) if a < b]  # first position, length

    def uniforms(self, operation: Operation, count: int, *, view: int = 0) -> Tensor:
        """Numbers in [0, 1), float64 [B, N].

        Args:
            operation: what the numbers are for.
            count: numbers N of each sample. Another count gives other numbers, of this operation only.
            view: number of the view within its sample.
        """
        return self.uniforms_of_views(operation, count, range(view, view + 1))[0]

    def uniforms_of_views(self, operation: Operation, count: int, views: range) -> Tensor:
        """The numbers of several views, float64 [V, B, N]."""
        assert 0 <= views.start <= views.stop <= 2**16, views
        assert 0 <= operation < 2**16, operation
        blocks = -(-count // 4)  # Philox makes four numbers for every value of its counter
        numbers = np.empty((len(views), sum(length for _, length in self._runs), 4 * blocks))
        for view, drawn in zip(views, numbers):
            key = np.array([self.seed, self.epoch << 32 | view << 16 | operation], dtype=np.uint64)
            done = 0
            for first, length in self._runs:
                generator = np.random.Generator(np.random.Philox(key=key, counter=[first * blocks, 0, 0, 0]))
                generator.random(out=drawn[done : done + length])
                done += length
        return torch.from_numpy(numbers)[..., :count].contiguous()
