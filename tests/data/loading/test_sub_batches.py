"""Canvases of sub-batches, joined: those of the whole batch, whatever the sides and types of its parts."""

import itertools

import numpy as np
import pytest
import torch

from repre.data.loading.loader import stack
from repre.data.loading.sub_batches import CanvasJoiner
from repre.types import MixedCanvases
from tests.data.loading.canvases import each_canvas

SIZES = [(4, 3), (2, 7), (5, 5), (9, 1)]
FORMATS = [(np.uint8,) * 4, (np.uint16,) * 4, (np.float32,) * 4, (np.uint8, np.uint16, np.float32, np.uint8)]


@pytest.mark.parametrize("dtypes", FORMATS, ids=["bytes", "16 bit", "floats", "mixed"])
def test_parts_of_other_sides_give_the_canvases_of_the_whole(dtypes: tuple[type, ...]) -> None:
    """In every order: the joined canvas has to grow, and smaller ones to be filled up."""
    numbers = np.random.default_rng(0)
    images = [
        (numbers.random((*size, 3)) * (1 if dtype is np.float32 else 255)).astype(dtype)
        for size, dtype in zip(SIZES, dtypes)
    ]
    for order in itertools.permutations(images):
        whole, _ = stack(list(order))
        for cut in (1, 2, 3):
            joiner = CanvasJoiner(4)
            for part in (order[:cut], order[cut:]):
                joiner.add(stack(list(part))[0])
            assert joiner.pixels is not None
            for canvas, expected in zip(each_canvas(joiner.pixels), each_canvas(whole), strict=True):
                torch.testing.assert_close(canvas, expected, rtol=0, atol=0)
                assert canvas[None].is_contiguous(memory_format=torch.channels_last)


def test_one_image_of_another_type_widens_no_other() -> None:
    """A batch of 256 images of 8 bits takes 2 bytes a value for one image of 16 bits, not 4 for all."""
    images = [np.full((8, 8, 3), 51, np.uint8) for _ in range(256)]
    images[77] = np.full((8, 8, 3), 13107, np.uint16)
    joiner = CanvasJoiner(256)
    for first in range(0, 256, 16):
        joiner.add(stack(images[first : first + 16])[0])
    for pixels in (stack(images)[0], joiner.pixels):
        assert isinstance(pixels, MixedCanvases)
        assert pixels.shape == (256, 3, 8, 8)
        assert [group.dtype for group in pixels.groups] == [torch.uint8, torch.uint16]
        assert sum(group.numel() * group.itemsize for group in pixels.groups) == 255 * 192 + 384
        assert int(each_canvas(pixels)[77][0, 0, 0]) == 13107
        few = pixels[70:80]
        assert (few.shape[0], [rows.tolist() for rows in few.rows][1]) == (10, [7])
        assert len(pixels[:70].groups) == 1
    storage = sum(group.untyped_storage().nbytes() for group in joiner.pixels.groups)  # type: ignore[union-attr]
    assert storage == 256 * 192 + 384, "the second type has room for its own alone"
