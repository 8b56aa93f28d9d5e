"""The order of a run: permutations, equal slices for every rank, replacements from far away."""

import pytest

from repre.data.loading.order import RunOrder, epoch_order


def test_orders_are_permutations_that_depend_on_seed_and_epoch() -> None:
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


def test_an_image_is_the_one_at_its_position_of_the_epoch() -> None:
    order = RunOrder(count=26, batch_size=8, seed=4)
    assert [order.index(2, position) for position in range(26)] == epoch_order(26, seed=4, epoch=2).tolist()


def test_replacements_are_different_images_outside_the_batch() -> None:
    order = RunOrder(count=100, batch_size=8, seed=0)
    batch = {order.index(0, position) for position in range(96, 100)}
    replacements = [order.index(0, 99, attempt=attempt) for attempt in range(1, 33)]
    assert len(set(replacements)) == 32
    assert not batch & set(replacements)
