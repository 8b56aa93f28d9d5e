"""The order of a run: permutations, equal slices for every rank, replacements from far away."""

import numpy as np
import pytest

from repre.data.loading.order import RunOrder, epoch_order, shuffled


def test_orders_of_evaluations_are_permutations_that_depend_on_seed_and_epoch() -> None:
    orders = {tuple(epoch_order(50, seed=s, epoch=e)) for s in range(3) for e in range(3)}
    assert len(orders) == 9
    assert all(sorted(order) == list(range(50)) for order in orders)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_ranks_share_the_positions_of_a_step(world_size: int) -> None:
    for step, epoch, first in ((0, 0, 0), (2, 0, 16), (3, 1, 0), (7, 2, 8)):
        positions = []
        for rank in range(world_size):
            order = RunOrder(count=26, batch_size=8, seed=0, rank=rank, world_size=world_size)
            assert order.steps_per_epoch == 3
            found, local = order.positions(step)
            assert found == epoch
            positions += local
        assert positions == list(range(first, first + 8))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 26, 255, 256, 257, 1000])
def test_the_order_of_a_run_is_a_permutation_without_memory(count: int) -> None:
    orders = {
        tuple(shuffled(position, count, seed=seed, epoch=epoch) for position in range(count))
        for seed in range(2)
        for epoch in range(3)
    }
    assert all(sorted(order) == list(range(count)) for order in orders)
    assert len(orders) == 6 or count < 5


def test_the_order_looks_random_for_ten_million_images() -> None:
    """Cells of (position, image) are filled evenly, and neighbors are independent; both within four deviations."""
    count, drawn = 10_000_000, 20_000
    positions = np.arange(drawn) * 500
    images = np.array([shuffled(int(p), count, seed=3, epoch=1) for p in positions])
    cells = np.histogram2d(positions, images, bins=10, range=[[0, count], [0, count]])[0]
    expected = drawn / 100
    assert abs(((cells - expected) ** 2 / expected).sum() - 99) < 4 * np.sqrt(2 * 99)
    assert abs(np.corrcoef(images[1:], images[:-1])[0, 1]) < 4 / np.sqrt(drawn)
    assert len(set(images.tolist())) == drawn


def test_an_image_is_the_one_at_its_position_of_the_epoch() -> None:
    order = RunOrder(count=26, batch_size=8, seed=4)
    for position in range(26):
        assert order.index(2, position) == shuffled(position, 26, seed=4, epoch=2)


def test_replacements_are_different_images_outside_the_batch() -> None:
    order = RunOrder(count=100, batch_size=8, seed=0)
    batch = {order.index(0, position) for position in range(96, 100)}
    replacements = [order.index(0, 99, attempt=attempt) for attempt in range(1, 33)]
    assert len(set(replacements)) == 32
    assert not batch & set(replacements)
