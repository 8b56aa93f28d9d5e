"""The order in which a run shows its images: a function of the seed, for any number of processes."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from repre.errors import UserError, counted

ROUNDS = 8
"""Rounds of the Feistel network; four would already look random to tests that know no key (Luby and Rackoff, 1988)."""
MASK = 2**64 - 1


def epoch_order(count: int, *, seed: int, epoch: int) -> np.ndarray:
    """A permutation of 0 .. count - 1 for a pass over labeled images, int64."""
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(count)


@lru_cache(maxsize=8)
def _round_keys(seed: int, epoch: int) -> list[int]:
    return np.random.SeedSequence([seed, epoch]).generate_state(ROUNDS, np.uint64).tolist()


def shuffled(position: int, count: int, *, seed: int, epoch: int) -> int:
    """The image at a position of an epoch: a permutation of 0 .. count - 1 that takes no memory, whatever the count.

    A Feistel network permutes the numbers of an even number of bits; a result of `count` or more is permuted again until it
    is below ("cycle walking": Black and Rogaway, "Ciphers with arbitrary finite domains", 2002), less than four times on
    average.
    """
    half = max(1, -(-(count - 1).bit_length() // 2))
    low = (1 << half) - 1
    keys = _round_keys(seed, epoch)
    while True:
        left, right = position >> half, position & low
        for key in keys:
            left, right = right, left ^ (_mix(right ^ key) & low)
        position = left << half | right
        if position < count:
            return position


def _mix(value: int) -> int:
    """The finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): every bit of the result depends on every bit."""
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & MASK
    return value ^ value >> 31


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
        return shuffled(position, self.count, seed=self.seed, epoch=epoch)


def check_batch(batch_size: int, *, images: int, spec: str, processes: int = 1) -> None:
    """Refuses a batch that the images do not fill, or that the processes cannot share.

    Args:
        images: number of images.
        spec: their name, for messages.
    """
    if images < 2:
        raise UserError(
            f"{spec} has {counted(images, 'image')}, too few to train on: the frameworks compare the images of a "
            "batch; add images to --data"
        )
    if batch_size > images:
        fits = [size for size in range(max(2, images // 2), 1, -1) if size % processes == 0]
        fix = f"use --batch-size {fits[0]} or less" if fits else f"{processes} processes need more images"
        if images >= 10:
            fix += ", or use the recipe small-data, which is made for few images"
        raise UserError(f"batch_size is {batch_size}, but {spec} has only {images} images; {fix}")
    if batch_size % processes:
        raise UserError(
            f"batch_size {batch_size} must be a multiple of the {processes} processes; use --batch-size "
            f"{batch_size // processes * processes or processes}"
        )
