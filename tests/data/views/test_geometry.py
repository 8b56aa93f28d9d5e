"""Cropping and resizing, in both implementations, against torchvision given the same boxes."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as TF
from PIL import Image
from torchvision.transforms import InterpolationMode

from repre.data.views import geometry as resize
from repre.data.views.augmentations import Filter
from repre.data.views.geometry import crop_resize
from repre.utils.image_size import Size, height_and_width
from tests.oracles.views import BYTES, canvas, photo

BOXES = torch.tensor([[0, 0, 375, 500], [30, 41, 200, 150], [100, 0, 275, 90], [10, 300, 40, 40], [374, 499, 1, 1]])


def dense(*given: Any, rounded: bool = False) -> torch.Tensor:
    """The other implementation in the loop's place; it never rounds."""
    return resize._resample_dense(*given)


@pytest.mark.parametrize("size", [96, 224, (64, 160)])
@pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
@pytest.mark.parametrize("way", ["dense", "loop", "loop over bytes"])
def test_crop_equals_torchvision(size: Size, filter: Filter, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shrinking, growing (40 -> 96) and a single pixel; all implementations, float and 8-bit references."""
    if way == "dense":
        monkeypatch.setattr(resize, "_resample_loop", dense)
    image = photo(375, 500, 0)
    pixels = canvas([(375, 500)], 512).expand(len(BOXES), -1, -1, -1)
    if way == "loop":
        pixels = pixels.float()
    flip, shape = torch.arange(len(BOXES)) % 2 == 1, list(height_and_width(size))
    views = crop_resize(pixels, BOXES, flip, size=size, value_range=BYTES, filter=filter)
    assert views.dtype == torch.float32
    for view, box, mirrored in zip(views, BOXES.tolist(), flip):
        mode = InterpolationMode(filter)
        exact = TF.resized_crop(image.float() / 255, *box, shape, mode, antialias=True).clamp(0, 1)
        pil = TF.resized_crop(Image.fromarray(image.permute(1, 2, 0).numpy()), *box, shape, mode)
        rounded = torch.from_numpy(np.array(pil)).permute(2, 0, 1).float() / 255
        view = view.flip(-1) if mirrored else view
        bytewise = way == "loop over bytes"  # rounded after each axis
        assert (view - exact).abs().max() < (1.6 / 255 if bytewise else 2e-5)
        assert (view - rounded).abs().max() < (2.1 if bytewise else 1.6) / 255
        assert (view - rounded).abs().mean() < 0.4 / 255


def test_the_crop_sees_nothing_outside_its_box() -> None:
    pixels = torch.full((2, 3, 64, 64), 255, dtype=torch.uint8)
    pixels[:, :, 10:30, 20:50] = 7
    box = torch.tensor([[10, 20, 20, 30]] * 2)
    for way in (partial(resize._resample_loop, rounded=True), partial(resize._resample_loop, rounded=False), dense):
        grid = torch.full((2, 2), 16)
        view = way(pixels, box, grid, torch.zeros_like(grid), torch.tensor([False, True]), (16, 16), "bicubic")
        torch.testing.assert_close(view, torch.full_like(view, 7.0))


def test_bytes_of_a_narrow_range_are_not_rounded() -> None:
    pixels, box, flip = canvas([(48, 48)], 48) // 32, torch.tensor([[3, 4, 40, 40]]), torch.tensor([True])
    narrow, exact = (crop_resize(x, box, flip, size=24, value_range=(0.0, 7.0)) for x in (pixels, pixels.float()))
    assert torch.equal(narrow, exact)


def test_autocast_does_not_coarsen_the_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resize, "_resample_loop", dense)
    pixels, boxes, flip = canvas([(48, 48)] * 2, 48), torch.tensor([[3, 4, 40, 40]] * 2), torch.tensor([True, False])
    plain = crop_resize(pixels, boxes, flip, size=24, value_range=BYTES)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(crop_resize(pixels, boxes, flip, size=24, value_range=BYTES), plain)
