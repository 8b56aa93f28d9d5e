"""The order in which a run shows its images: a function of the seed, for any number of processes."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np


def epoch_order(count: int, *, seed: int, epoch: int) -> np.ndarray:
    """The order in which an epoch shows its images: a permutation of 0 .. count - 1, int64."""
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(count)


_cached_order = lru_cache(maxsize=2)(epoch_order)


@dataclass(frozen=True, kw_only=True)
class RunOrder:
    """Which images every step of a run shows.

    With G images per step, step t of an epoch shows the positions [t G, (t + 1) G) of the epoch's order, and every rank
    takes an equal slice of them. So the order depends neither on the number of ranks nor on where a run was resumed.
    """

    count: int
    """Images of the source."""
    batch_size: int
    """Images per step over all ranks, a multiple of `world_size`."""
    seed: int
    """Seed of the run."""
    rank: int = 0
    """Rank of this process."""
    world_size: int = 1
    """Number of processes."""

    @property
    def steps_per_epoch(self) -> int:
        """Full batches of one epoch. A last, smaller batch is left out; every epoch leaves out other images."""
        return self.count // self.batch_size

    def positions(self, step: int) -> tuple[int, range]:
        """The epoch of a step of the run, and the positions in its order that this rank shows."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        local = self.batch_size // self.world_size
        start = step_in_epoch * self.batch_size + self.rank * local
        return epoch, range(start, start + local)

    def index(self, epoch: int, position: int, *, attempt: int = 0) -> int:
        """The index of the image at a position.

        Attempts 1, 2, ... give replacements for an unreadable image. They come from half an epoch away, because a neighbor
        could be in the same batch, which would then show it twice.
        """
        if attempt:
            position = (position + self.count // 2 + attempt - 1) % self.count
        return int(_cached_order(self.count, seed=self.seed, epoch=epoch)[position])
