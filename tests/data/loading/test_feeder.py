"""The feeder: the steps of a training, however they are cut, and slots that no worker writes to while they are copied."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from repre.data.loading.feeder import CudaLane, Feeder, Lane
from repre.data.loading.loader import EXTRA_SLOTS, Loader
from repre.data.views.render import draw_views, make_views
from repre.data.views.view_recipes import MaskConfig, dino_views
from repre.errors import RunError
from repre.types import Batch, Views
from tests.data.loading.test_loader import Numbers

CPU = torch.device("cpu")
VIEWS = dino_views(16, 8, 1)
render = partial(make_views, config=VIEWS, seed=3, device="cpu")


def loader(source: Any = None, **changes: Any) -> Loader:
    settings: dict[str, Any] = {"batch_size": 24, "epochs": 2, "seed": 0, "canvas": 8, "workers": 0} | changes
    return Loader(source or Numbers(50, broken=(11, 17)), **settings)


def steps(feeder: Feeder, count: int) -> list[tuple[Batch, Views]]:
    taken = []
    for _ in range(count):
        feeder.advance()
        taken.append(feeder.take())
    return taken


def assert_same(one: tuple[Batch, Views], other: tuple[Batch, Views]) -> None:
    for name in ("sizes", "positions", "indices"):
        assert torch.equal(getattr(one[0], name), getattr(other[0], name)), name
    assert (one[0].failures, one[0].changed, one[0].epoch) == (other[0].failures, other[0].changed, other[0].epoch)
    for view, reference in zip(one[1].images + one[1].targets, other[1].images + other[1].targets, strict=True):
        assert torch.equal(view, reference)
        assert view.stride() == reference.stride()


@pytest.mark.parametrize(
    ("workers", "most_images", "at_once"), [(0, 16, 256), (2, 1, 4), (2, 5, 10), (3, 16, 256), (3, 7, 1)]
)
def test_parts_give_the_steps_of_whole_batches(
    workers: int, most_images: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = steps(Feeder(loader(), render, CPU), 4)
    assert len(whole[0][0].failures) + len(whole[1][0].failures) == 2
    monkeypatch.setattr("repre.data.loading.sub_batches.MOST_IMAGES", most_images)
    on_device = steps(Feeder(loader(workers=workers), render, CPU, lane=Lane(), at_once=at_once), 4)
    in_workers = steps(Feeder(loader(workers=workers, render=render), render, CPU), 4)
    resumed = steps(Feeder(loader(workers=workers, start=3), render, CPU, lane=Lane(), at_once=at_once), 1)
    for one, other, third in zip(whole, on_device, in_workers, strict=True):
        assert_same(one, other)
        assert_same(one, third)
    assert_same(whole[3], resumed[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_parameters_that_workers_draw_are_those_of_the_batch(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With hidden patches too; nothing is drawn again where the views are made."""
    config = replace(VIEWS, mask=MaskConfig(kind="random", ratio=(0.2, 0.8), image_share=0.7, patch=8))
    draw = partial(draw_views, config, seed=3)
    make = partial(make_views, config=config, seed=3, device="cpu")
    drawn_here = steps(Feeder(loader(), make, CPU), 2)
    feeder = Feeder(loader(workers=workers, draw=draw), make, CPU, lane=Lane(), at_once=16)
    monkeypatch.setattr("repre.data.views.render.draw_views", None)
    for one, other in zip(drawn_here, steps(feeder, 2), strict=True):
        assert_same(one, other)
        assert one[1].masks is not None
        assert other[1].masks is not None
        assert one[1].masked is not None
        assert other[1].masked is not None
        assert torch.equal(one[1].masked, other[1].masked)
        assert torch.equal(one[1].masked, replace(one[1], masked=None).masked_patches())
        assert all(torch.equal(mask, reference) for mask, reference in zip(one[1].masks, other[1].masks, strict=True))


def test_targets_that_are_the_views_themselves_stay_so() -> None:
    same = partial(make_views, config=dino_views(16, 8, 1, target="view"), seed=3, device="cpu")
    for feeder in (
        Feeder(loader(workers=2, render=same), same, CPU),
        Feeder(loader(workers=2), same, CPU, lane=Lane(), at_once=8),
    ):
        [(_, views)] = steps(feeder, 1)
        assert all(target is view for target, view in zip(views.targets, views.images))


def test_ranks_share_a_batch() -> None:
    whole = steps(Feeder(loader(), render, CPU), 2)
    parts = [
        steps(Feeder(loader(rank=rank, world_size=2, workers=2), render, CPU, lane=Lane(), at_once=5), 2)
        for rank in range(2)
    ]
    for step, (batch, views) in enumerate(whole):
        assert torch.equal(torch.cat([part[step][0].indices for part in parts]), batch.indices)
        for number, view in enumerate(views.images):
            assert torch.equal(torch.cat([part[step][1].images[number] for part in parts]), view)


def test_nothing_readable_stops_with_the_reason() -> None:
    feeder = Feeder(loader(Numbers(50, broken=tuple(range(50))), workers=2), render, CPU, lane=Lane())
    with pytest.raises(RunError, match="in a row cannot be read"):
        feeder.advance()


class SlowCopies(Lane):
    """Notes which copies the feeder waits for, and how many it leaves running."""

    def __init__(self) -> None:
        self.issued, self.awaited, self.most_running = 0, 0, 0
        self.locked: list[tuple[int, int]] = []

    def mark(self) -> int:
        self.issued += 1
        self.most_running = max(self.most_running, self.issued - self.awaited)
        return self.issued

    def wait(self, mark: int) -> None:
        self.awaited = max(self.awaited, mark)

    def lock(self, slot: Tensor, used: int) -> None:
        self.locked.append((slot.data_ptr(), used))


class CountingLane(Lane):
    """Knows whether its work is running, as a CUDA stream stays the current one until its context is left."""

    def __init__(self) -> None:
        self.depth, self.deepest = 0, 0

    @contextmanager
    def running(self) -> Iterator[None]:
        self.depth += 1
        self.deepest = max(self.deepest, self.depth)
        try:
            yield
        finally:
            self.depth -= 1


def test_the_training_never_runs_on_the_lane() -> None:
    """Else its own work would stand in the lane's line, and nothing would overlap."""
    lane = CountingLane()
    feeder = Feeder(loader(), render, CPU, lane=lane)
    for _ in range(3):
        feeder.advance()
        assert lane.depth == 0
        feeder.take()
    assert lane.deepest == 1


def test_a_slot_is_requested_again_once_the_copy_from_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repre.data.loading.sub_batches.MOST_IMAGES", 1)
    monkeypatch.setattr("repre.data.loading.sub_batches.STEPS_AHEAD", 0)  # fewer slots than a step has sub-batches
    lane, made = SlowCopies(), loader(Numbers(50), workers=2)
    for _ in steps(Feeder(made, render, CPU, lane=lane, at_once=1000), 1):
        assert lane.most_running == EXTRA_SLOTS
        assert lane.awaited == 24 - EXTRA_SLOTS, "copies of all slots but the newest are complete"
    assert {used for _, used in lane.locked} == {5 * 5 * 3, 6 * 6 * 3}
    assert len({address for address, _ in lane.locked}) == made.cut.slots


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("refused", [False, True])
def test_cuda_gives_the_views_of_whole_batches(refused: bool) -> None:
    device = torch.device("cuda")
    on_device = partial(make_views, config=VIEWS, seed=3, device=device)
    lane = CudaLane(device)
    lane._refused = refused
    feeder = Feeder(loader(workers=2), on_device, device, lane=lane, at_once=8)
    for (batch, views), (whole, _) in zip(steps(feeder, 4), steps(Feeder(loader(), render, CPU), 4)):
        torch.cuda.synchronize()
        assert torch.equal(batch.indices, whole.indices)
        pixels = next(b.pixels for b in loader() if torch.equal(b.indices, whole.indices))
        expected = on_device(Batch(pixels, whole.sizes, whole.positions, whole.indices, whole.epoch))
        for view, reference in zip(views.images, expected.images):
            torch.testing.assert_close(view, reference, rtol=0, atol=1e-5)
    assert bool(lane._locked) != refused
