"""Windows against slow loops: every pixel is covered, one window changes nothing, overlaps are averaged."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from repre.data.labels.masks import IGNORE, open_masks
from repre.data.labels.windows import (
    Plan,
    WindowsConfig,
    WindowSet,
    cut,
    fill_value,
    mask_to_grid,
    merge,
    plan,
    to_grid,
)
from repre.data.loading.workers import in_workers
from tests.oracles import segmentation as slow


@pytest.mark.parametrize("size", [(16, 16), (16, 41), (50, 20), (7, 9)])
@pytest.mark.parametrize("short_side", [None, 0])
def test_sliding_windows_cover_every_pixel(size: tuple[int, int], short_side: int | None) -> None:
    found = plan(*size, WindowsConfig(size=16, overlap=1 / 3, short_side=short_side))
    height, width = found.grid
    if short_side == 0:
        assert found.grid == size
    else:
        assert min(found.grid) == 16
    covered = np.zeros((height, width), bool)
    for top, left in found.offsets:
        assert 0 <= top <= max(0, height - 16)
        assert 0 <= left <= max(0, width - 16)
        covered[top : top + 16, left : left + 16] = True
    assert covered.all()
    lefts = sorted({left for _, left in found.offsets})
    assert all(b - a <= 11 for a, b in pairwise(lefts))  # 16 less a third


def test_pad_keeps_the_aspect_and_resize_does_not() -> None:
    assert plan(20, 40, WindowsConfig(size=16, mode="pad")) == Plan((8, 16), ((0, 0),), 16)
    assert plan(20, 40, WindowsConfig(size=16, mode="resize")) == Plan((16, 16), ((0, 0),), 16)


def test_merge_is_the_mean_of_the_covering_windows() -> None:
    found = plan(20, 37, WindowsConfig(size=16, overlap=0.5, short_side=0))
    assert len(found.offsets) > 4
    windows = torch.randn(len(found.offsets), 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(merge(windows, found), slow.merged(windows, list(found.offsets), found.grid))


@pytest.mark.parametrize("size", [(16, 16), (23, 16), (40, 37), (5, 30)])
def test_merge_undoes_cut(size: tuple[int, int]) -> None:
    found = plan(*size, WindowsConfig(size=16, short_side=0))
    values = torch.randn(4, *size)
    torch.testing.assert_close(merge(cut(values, found, 0), found), values)
    if size == (16, 16):
        assert (cut(values, found, 0)[0] == values).all()


def test_beyond_the_image_lies_the_fill() -> None:
    found = plan(5, 8, WindowsConfig(size=8, short_side=0))
    mean = torch.tensor([0.2, 0.4, 0.6]).view(3, 1, 1)
    window = cut(torch.zeros(3, 5, 8, dtype=torch.uint8), found, fill_value(mean, torch.uint8))[0]
    assert (window[:, :5] == 0).all()
    assert window[:, 5:].amax((1, 2)).tolist() == [51, 102, 153]
    assert window[:, 5:].amin((1, 2)).tolist() == [51, 102, 153]


def test_resizing_keeps_what_fits_and_labels_stay_labels() -> None:
    image = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    assert (to_grid(image, (6, 8)).permute(1, 2, 0).numpy() == image).all()
    wide = to_grid(image.astype(np.uint16) * 257, (6, 8))
    torch.testing.assert_close(wide, to_grid(image, (6, 8)).float() / 255)
    mask = np.array([[0, 1], [2, IGNORE]], np.uint8)
    assert mask_to_grid(mask, (4, 6)).tolist() == [[0] * 3 + [1] * 3] * 2 + [[2] * 3 + [IGNORE] * 3] * 2
    assert mask_to_grid(mask.repeat(3, 0).repeat(3, 1), (2, 2)).tolist() == mask.tolist()


def test_workers_change_nothing() -> None:
    data = WindowSet(open_masks("scenes:4:24"), WindowsConfig(size=16), mean=torch.full((3, 1, 1), 0.5))
    here, there = (list(in_workers(data, range(4), workers=workers)) for workers in (0, 2))
    for a, b in zip(here, there):
        assert (a.pixels == b.pixels).all()
        assert (a.masks == b.masks).all()
        assert a.plan == b.plan
        assert (a.truth == b.truth).all()
