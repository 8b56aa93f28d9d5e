"""The loader: one order for any number of ranks and workers, exact resume, replacements for unreadable files."""

import os
import sys
from dataclasses import replace
from functools import partial
from itertools import chain
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from repre.data.io.decode import UnreadableImage
from repre.data.io.frame_notes import note_several_frames
from repre.data.loading.loader import LIKELY, WHOLE, Loader, LoaderConfig, stack, sufficient_size
from repre.data.loading.sub_batches import cut_batch
from repre.data.views.augmentations import Range, ViewConfig, draw
from repre.data.views.random_streams import RandomStreams
from repre.data.views.render import center_view, make_views
from repre.data.views.view_recipes import ViewsConfig, dino_views
from repre.errors import RunError, UserError
from repre.types import Batch
from tests.data.loading.canvases import each_canvas


class Numbers:
    """Image i is filled with i; some cannot be read, and every sixth is the first of several frames."""

    spec, channels, labels, classes = "numbers", 3, None, []

    def __init__(self, count: int, broken: tuple[int, ...] = ()) -> None:
        self.count, self.broken = count, broken

    def __len__(self) -> int:
        return self.count

    def load(self, index: int) -> np.ndarray:
        if index % 6 == 0:
            note_several_frames()
        if index in self.broken:
            raise UnreadableImage("broken on purpose")
        return np.full((4 + index % 3, 5, 3), index, np.uint8)

    def describe(self, index: int) -> str:
        return f"number {index}"


def batches(source: Numbers, **changes: int) -> list[Batch]:
    settings = {"batch_size": 6, "epochs": 2, "seed": 0, "canvas": 8, "workers": 0} | changes
    return list(Loader(source, **settings))  # type: ignore[arg-type]


def test_every_epoch_shows_the_same_images_in_another_order() -> None:
    found = batches(Numbers(24))
    assert [b.epoch for b in found] == [0] * 4 + [1] * 4
    first, second = (torch.cat([b.indices for b in found if b.epoch == e]).tolist() for e in (0, 1))
    assert sorted(first) == sorted(second) == list(range(24))
    assert first != second
    for batch in found:
        for pixels, (h, w), index in zip(batch.pixels, batch.sizes.tolist(), batch.indices.tolist()):
            assert (h, w) == (4 + index % 3, 5)
            assert (pixels[:, :h, :w] == index).all()
            assert pixels.sum() == 3 * h * w * index


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_and_workers_change_nothing(world_size: int, workers: int) -> None:
    single = batches(Numbers(24, broken=(3, 11)))
    parts = [
        batches(Numbers(24, broken=(3, 11)), rank=r, world_size=world_size, workers=workers) for r in range(world_size)
    ]
    for step, batch in enumerate(single):
        for field in ("pixels", "sizes", "positions", "indices"):
            whole = getattr(batch, field)
            rows = [getattr(part[step], field) for part in parts]
            if field == "pixels":  # the canvases of a rank are as large as its images need
                beyond = [whole.shape[-1] - canvases.shape[-1] for canvases in rows]
                rows = [F.pad(canvases, (0, more, 0, more)) for canvases, more in zip(rows, beyond)]
            assert torch.equal(torch.cat(rows), whole), field


def test_a_resumed_run_shows_the_remaining_batches() -> None:
    whole, rest = batches(Numbers(24)), batches(Numbers(24), start=3)
    assert len(rest) == len(whole) - 3
    for a, b in zip(whole[3:], rest):
        assert torch.equal(a.indices, b.indices)
        assert torch.equal(a.positions, b.positions)
        assert a.epoch == b.epoch


def test_an_unreadable_image_is_replaced_and_reported() -> None:
    found = batches(Numbers(24, broken=(5,)), epochs=1)
    failures = [failure for batch in found for failure in batch.failures]
    assert failures == [(5, "broken on purpose")]
    shown = torch.cat([batch.indices for batch in found]).tolist()
    assert len(shown) == 24
    assert 5 not in shown
    for batch in found:
        assert len(set(batch.indices.tolist())) == len(batch.indices), "a replacement doubles an image of its batch"


def test_nothing_readable_stops_with_the_reason() -> None:
    with pytest.raises(RunError, match=r"in a row cannot be read.*number \d+: broken on purpose"):
        batches(Numbers(24, broken=tuple(range(24))))


def test_batches_must_fit() -> None:
    with pytest.raises(UserError, match="only 5 images"):
        batches(Numbers(5))
    with pytest.raises(UserError, match="multiple of the 4 processes"):
        batches(Numbers(24), world_size=4)


def test_a_canvas_is_as_large_as_its_images_need() -> None:
    images = [np.full((3, 5, 1), 7, np.uint8), np.full((4, 2, 1), 9, np.uint8)]
    pixels, sizes = stack(images)
    assert pixels.shape == (2, 1, 5, 5)
    assert sizes.tolist() == [[3, 5], [4, 2]]
    assert pixels.sum() == 15 * 7 + 8 * 9


@pytest.mark.parametrize("size", [160, 224, 512])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.25, 1.0), (0.05, 0.25)])
def test_nine_of_ten_crops_keep_the_pixels_of_their_view(size: int, scale: Range) -> None:
    side = sufficient_size([(size, scale)])
    drawn = draw(
        ViewConfig(scale=scale),
        torch.tensor([[3 * side // 4, side]]).expand(4000, 2),
        RandomStreams(seed=0, epoch=0, positions=torch.arange(4000)),
    )
    enlarged = (drawn.boxes[:, 2:].prod(dim=1) < size**2).float().mean()
    assert enlarged < LIKELY + 0.05, "large crops more often do not fit the image, and are drawn again"
    assert enlarged > LIKELY - 0.03 or side == WHOLE


def test_the_default_decode_size_is_that_of_the_views_that_need_most() -> None:
    assert [sufficient_size([(size, (0.08, 1.0))]) for size in (48, 96, 224, 384)] == [512, 512, 624, 1072]
    assert sufficient_size([(224, (0.25, 1.0)), (96, (0.05, 0.25))]) == 512
    assert sufficient_size([(224, (0.25, 1.0)), (384, (0.08, 1.0))]) == 1072
    assert sufficient_size([((224, 224), (0.08, 1.0))]) == sufficient_size([((112, 448), (0.08, 1.0))]) == 624
    assert sufficient_size([((16, 800), (0.08, 1.0))]) == 800, "never less than the longer side"


def test_images_of_several_types_keep_their_own() -> None:
    images = [
        np.full((2, 2, 1), 51, np.uint8),
        np.full((2, 2, 1), 13107, np.uint16),
        np.full((2, 2, 1), 0.2, np.float32),
    ]
    pixels, sizes = stack(images)
    types = [torch.uint8, torch.uint16, torch.float32]
    assert [canvas.dtype for canvas in each_canvas(pixels)] == types
    assert [float(canvas[0, 0, 0]) for canvas in each_canvas(pixels)] == pytest.approx([51, 13107, 0.2])
    config = ViewsConfig(size=8, mean=(0.0,), std=(1.0,))
    torch.testing.assert_close(center_view(pixels, sizes, size=8, config=config), torch.full((3, 1, 8, 8), 0.2))
    for image, dtype in zip(images, types):
        canvas, _ = stack([image])
        assert isinstance(canvas, torch.Tensor)
        assert canvas.dtype == dtype


@pytest.mark.parametrize("value_range", [None, (0.0, 200.0)])
def test_views_of_an_image_do_not_depend_on_the_types_of_the_others(value_range: tuple[float, float] | None) -> None:
    config = replace(dino_views(16, 8, 2), value_range=value_range)
    render = partial(make_views, config=config, seed=3, device="cpu", with_crops=True)
    settings: dict[str, Any] = {"batch_size": 12, "epochs": 1, "seed": 0, "canvas": 8, "workers": 0}
    for batch in Loader(Mixed(26), **settings):
        whole = render(batch)
        for number, canvas in enumerate(each_canvas(batch.pixels)):
            some = slice(number, number + 1)
            alone = Batch(canvas[None], batch.sizes[some], batch.positions[some], batch.indices[some], batch.epoch)
            views = render(alone)
            for image, expected in zip(whole.images + whole.targets, views.images + views.targets, strict=True):
                torch.testing.assert_close(image[some], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("workers", [0, 2])
def test_views_made_by_the_loader_are_those_of_its_pixels(workers: int) -> None:
    render = partial(make_views, config=dino_views(16, 8, 2), seed=3, device="cpu")
    settings: dict[str, Any] = {"batch_size": 6, "epochs": 2, "seed": 0, "canvas": 8, "workers": workers}
    pairs = list(zip(Loader(Numbers(24), **settings), Loader(Numbers(24), render=render, **settings), strict=True))
    assert len(pairs) == 8
    for plain, rendered in pairs:
        assert plain.views is None
        assert rendered.pixels.shape == (6, plain.pixels.shape[1], 0, 0)
        assert rendered.views is not None
        expected = render(plain)
        for view, reference in zip(rendered.views.images + rendered.views.targets, expected.images + expected.targets):
            assert torch.equal(view, reference)


class Mixed(Numbers):
    """Every fifth image has 16 bits and every seventh is float32."""

    def load(self, index: int) -> np.ndarray:
        image = super().load(index)
        if index % 5 == 0:
            return image.astype(np.uint16) * 257
        return image.astype(np.float32) / 255 if index % 7 == 0 else image


@pytest.mark.parametrize("most_images", [1, 4, 16])
def test_sub_batches_join_to_the_whole_batch(most_images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"batch_size": 12, "epochs": 2, "seed": 0, "canvas": 8}
    for source in (Numbers(26, broken=(3, 11, 12)), Mixed(26)):
        whole = list(Loader(source, workers=0, **settings))
        with monkeypatch.context() as patch:
            patch.setattr("repre.data.loading.sub_batches.MOST_IMAGES", most_images)
            cut = list(Loader(source, workers=2, **settings))
        for batch, joined in zip(whole, cut, strict=True):
            for canvas, other in zip(each_canvas(batch.pixels), each_canvas(joined.pixels), strict=True):
                assert canvas.dtype == other.dtype
                assert canvas.stride() == other.stride()
                assert torch.equal(canvas, other)
            for field in ("sizes", "positions", "indices"):
                assert torch.equal(getattr(batch, field), getattr(joined, field)), field
            assert (batch.epoch, batch.failures, batch.changed) == (joined.epoch, joined.failures, joined.changed)
            assert batch.several_frames == [index for index in batch.indices.tolist() if index % 6 == 0]
            assert joined.several_frames == batch.several_frames


def test_what_is_in_flight_is_bounded_for_any_batch_and_number_of_workers() -> None:
    budget, image = 2 * 2**30, 504 * 504 * 3 * 4
    for local in (1, 64, 256, 1000, 4096):
        for workers in (1, 2, 8, 16, 64, 500):
            cut = cut_batch(local, image_bytes=image, workers=workers, budget=budget, extra=4)
            assert cut.slots * cut.slot_bytes <= budget
            assert cut.slot_bytes >= cut.images * image
            assert 1 <= cut.images <= 16
            rows = [range(local)[cut.rows(part, local)] for part in range(cut.parts)]
            assert list(chain(*rows)) == list(range(local))
            assert all(rows)
            assert cut.workers == workers or workers == 500, "500 images of 3 MiB are in flight at most"
            room = (budget // cut.slot_bytes - 4) // cut.workers
            assert cut.workers * cut.prefetch >= cut.parts or cut.prefetch >= room, "a whole step, or all that fits"
    assert cut_batch(256, image_bytes=image, workers=16, budget=budget, extra=4).images == 16
    one = cut_batch(64, image_bytes=image, workers=1, budget=budget, extra=4)
    assert one.prefetch * one.images == 64, "one worker makes the next step while the training computes this one"


def test_fewer_workers_where_an_image_each_does_not_fit() -> None:
    lines: list[str] = []
    settings: dict[str, Any] = {"batch_size": 6, "epochs": 1, "seed": 0, "canvas": 64, "log": lines.append}
    few = Loader(Numbers(24), workers=8, in_flight_gib=7 * (64 * 64 * 3 * 4 + 4096) / 2**30, **settings)
    assert few.cut.workers == 3
    assert len(lines) == 1
    assert "3 of 8 workers" in lines[0]
    assert "--loader.in-flight-gib" in lines[0]
    assert Loader(Numbers(24), workers=8, in_flight_gib=1e-9, **settings).cut.workers == 1
    assert len(list(few)) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /dev/shm")
def test_too_little_room_for_workers_is_refused_before_the_first_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the first validation of a run, which takes a while, would come before."""
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=16, f_frsize=4096))
    settings: dict[str, Any] = {"batch_size": 6, "epochs": 1, "seed": 0, "canvas": 8}
    with pytest.raises(UserError, match="2 workers need 104 KiB in /dev/shm, which has 64 KiB left"):
        Loader(Numbers(24), workers=2, **settings)
    Loader(Numbers(24), workers=0, **settings)


def test_settings_that_cannot_be_are_refused() -> None:
    for setting in ("in_flight_gib", "cache_gib", "decode_size"):
        with pytest.raises(UserError, match=f"loader.{setting}"):
            LoaderConfig(**{setting: -1})
    with pytest.raises(UserError, match=r"loader\.cache"):
        LoaderConfig(cache="yes")  # type: ignore[arg-type]
