"""Images in the memory of the device: the batches and views of the ordinary loader, bit by bit."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from repre.data.io.decode import UnreadableImage
from repre.data.loading import resident
from repre.data.loading.feeder import CudaLane, Feeder, Lane
from repre.data.loading.loader import Loader
from repre.data.loading.resident import is_wanted, keep_resident
from repre.data.views.render import make_views
from repre.errors import RunError
from tests.data.loading.canvases import each_canvas
from tests.data.loading.test_feeder import CPU, VIEWS, assert_same, render, steps
from tests.data.loading.test_loader import Mixed, Numbers

SETTINGS: dict[str, Any] = {"batch_size": 12, "epochs": 2, "seed": 0, "canvas": 12}


class Noise(Numbers):
    """Noise of many sizes; the largest images are rare, so that batches have canvases of different sides."""

    def __init__(self, count: int, dtype: Any = np.uint8, **options: Any) -> None:
        super().__init__(count, **options)
        self.dtype = np.dtype(dtype)

    def load(self, index: int) -> np.ndarray:
        super().load(index)  # notes frames, and fails where it should
        random = np.random.default_rng(index)
        shape = (12 if index % 16 == 7 else 3 + index % 5, 4 + index % 4, 3)
        values = random.random(shape, np.float32)
        return values if self.dtype == np.float32 else (values * np.iinfo(self.dtype).max).astype(self.dtype)


def loader(source: Numbers, *, kept: bool, device: torch.device = CPU, log: Any = None, **changes: Any) -> Loader:
    lines: list[str] = []
    settings = SETTINGS | {"workers": 0, "log": log or lines.append} | changes
    keep = partial(
        keep_resident, memory="on", device=device, canvas=settings["canvas"], workers=settings["workers"],
        in_flight_gib=1.0, log=settings["log"],
    )  # fmt: skip
    return Loader(source, keep=keep if kept else None, **settings)  # type: ignore[arg-type]


BROKEN = (3, 11, 12)


@pytest.mark.parametrize(
    ("dtype", "changes", "at_once"),
    [
        (np.uint8, {}, 256),
        (np.uint8, {"workers": 2}, 5),
        (np.uint16, {"start": 3}, 4),
        (np.float32, {"rank": 1, "world_size": 2}, 256),
        (np.uint8, {"rank": 0, "world_size": 2, "start": 1}, 2),
    ],
)
def test_batches_are_those_of_the_ordinary_loader(
    dtype: Any, changes: dict[str, Any], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resident, "RENDERED_AT_ONCE", at_once)
    monkeypatch.setattr("repre.data.loading.loader.changed_during_run", lambda source, index: index % 4 == 0)
    source, sides = Noise(50, dtype, broken=BROKEN), set()
    ordinary, kept = (loader(source, kept=kept, **changes) for kept in (False, True))
    found = list(kept)
    assert kept.is_resident
    for batch, other in zip(ordinary, found, strict=True):
        for name in ("pixels", "sizes", "positions", "indices"):
            assert torch.equal(getattr(batch, name), getattr(other, name)), name
        for name in ("epoch", "failures", "changed", "several_frames"):
            assert getattr(batch, name) == getattr(other, name), name
        assert batch.pixels.dtype == other.pixels.dtype
        assert batch.pixels.stride() == other.pixels.stride()
        sides.add(batch.pixels.shape[-1])
    assert len(sides) > 1, "some batches have smaller canvases than others"
    assert any(batch.failures for batch in found)
    assert any(batch.changed for batch in found)


@pytest.mark.parametrize("lane", [None, Lane()])
@pytest.mark.parametrize("start", [0, 3])
def test_views_are_those_of_the_ordinary_feeder(lane: Lane | None, start: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "RENDERED_AT_ONCE", 5)
    source = Noise(50, broken=BROKEN)
    ordinary = loader(source, kept=False, workers=2, render=render, start=start)
    kept = loader(source, kept=True, start=start, render=render)
    count = ordinary.total_steps - start
    expected = steps(Feeder(ordinary, render, CPU), count)
    for one, other in zip(expected, steps(Feeder(kept, render, CPU, lane=lane, at_once=5), count), strict=True):
        assert_same(one, other)
        assert one[0].several_frames == other[0].several_frames


class Once(Noise):
    """Every image can be read once."""

    def __init__(self, count: int, **options: Any) -> None:
        super().__init__(count, **options)
        self.read: list[int] = []

    def load(self, index: int) -> np.ndarray:
        self.read.append(index)
        return super().load(index)


def test_every_file_is_read_once_and_one_line_says_what_is_kept() -> None:
    lines: list[str] = []
    source = Once(30, broken=(2,))
    kept = loader(source, kept=True, log=lines.append)
    source.read.clear()
    assert not lines, "nothing is read before the first batch"
    list(kept)
    assert sorted(source.read[1:]) == list(range(30)), "and the first for its size"
    size = 30 * 12 * 12 * 3 / 2**30
    assert lines == [
        "decoding 30 images once, to keep them in memory",
        f"29 images are kept in memory ({size:.2f} GiB)",
    ]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("source", "share", "reason"),
    [
        (Mixed(26), 0.5, "their values have several types: "),
        (Noise(26), 1e-15, "0.00 GiB is more than 0% of what is free"),
        (Noise(26, broken=(0,)), 5e3 / resident.free_bytes(CPU), "0.00 GiB is more than 0% of what is free"),
    ],
    ids=["types", "size", "size of a later image"],
)
def test_what_cannot_be_kept_is_read_from_files(
    source: Numbers, share: float, reason: str, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mixed types; too much by the first image; too much by an image that is larger than those before."""
    monkeypatch.setitem(resident.SHARES, "on", share)
    monkeypatch.setattr("repre.data.loading.sub_batches.MOST_IMAGES", 2)
    monkeypatch.setattr(resident, "MOST_IMAGES", 2)
    lines: list[str] = []
    kept = loader(source, kept=True, workers=workers, log=lines.append)
    for batch, other in zip(loader(source, kept=False), kept, strict=True):
        for canvas, expected in zip(each_canvas(other.pixels), each_canvas(batch.pixels), strict=True):
            assert torch.equal(canvas, expected)
        assert batch.failures == other.failures
    assert not kept.is_resident
    assert lines[-1].startswith(f"images are not kept in memory: {reason}")


def test_nothing_readable_stops_with_the_reason() -> None:
    with pytest.raises(RunError, match=r"in a row cannot be read.*number \d+: broken on purpose"):
        next(iter(loader(Noise(24, broken=tuple(range(24))), kept=True)))


def test_a_file_that_becomes_unreadable_later_plays_no_part() -> None:
    class Vanishing(Noise):
        gone = False

        def load(self, index: int) -> np.ndarray:
            if self.gone:
                raise UnreadableImage("the disk is gone")
            return super().load(index)

    source = Vanishing(30)
    batches = iter(loader(source, kept=True))
    next(batches)
    source.gone = True
    assert not any(batch.failures for batch in batches)


def test_by_default_images_are_kept_on_cuda_in_several_epochs() -> None:
    cuda = torch.device("cuda")
    assert is_wanted("auto", device=cuda, epochs=2)
    assert not is_wanted("auto", device=cuda, epochs=1)
    assert not is_wanted("auto", device=CPU, epochs=2)
    assert is_wanted("on", device=CPU, epochs=1)
    assert not is_wanted("off", device=cuda, epochs=2)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_cuda_selects_and_renders_what_workers_send(dtype: Any) -> None:
    device = torch.device("cuda", 0)
    make = partial(make_views, config=VIEWS, seed=3, device=device)
    source = Noise(50, dtype, broken=BROKEN)
    kept = loader(source, kept=True, device=device)
    expected = steps(Feeder(loader(source, kept=False, workers=2), make, device), 8)
    found = steps(Feeder(kept, make, device, lane=CudaLane(device), at_once=5), 8)
    torch.cuda.synchronize()
    assert kept.is_resident
    for one, other in zip(expected, found, strict=True):
        assert_same(one, other)
