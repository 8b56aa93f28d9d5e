"""Canvases of sub-batches, joined: those of the whole batch, whatever the sides and types of its parts."""

import itertools

import numpy as np
import pytest
import torch

from repre.data.loading.loader import stack
from repre.data.loading.sub_batches import CanvasJoiner

SIZES = [(4, 3), (2, 7), (5, 5), (9, 1)]
FORMATS = [(np.uint8,) * 4, (np.uint16,) * 4, (np.float32,) * 4, (np.uint8, np.uint16, np.float32, np.uint8)]


@pytest.mark.parametrize("keep_values", [False, True])
@pytest.mark.parametrize("dtypes", FORMATS, ids=["bytes", "16 bit", "floats", "mixed"])
def test_parts_of_other_sides_give_the_canvases_of_the_whole(dtypes: tuple[type, ...], keep_values: bool) -> None:
    """In every order: the joined canvas has to grow, and smaller ones to be filled up."""
    numbers = np.random.default_rng(0)
    images = [
        (numbers.random((*size, 3)) * (1 if dtype is np.float32 else 255)).astype(dtype)
        for size, dtype in zip(SIZES, dtypes)
    ]
    for order in itertools.permutations(images):
        whole, _ = stack(list(order), keep_values=keep_values)
        for cut in (1, 2, 3):
            joiner = CanvasJoiner(4, keep_values=keep_values)
            for part in (order[:cut], order[cut:]):
                joiner.add(stack(list(part), keep_values=keep_values)[0])
            torch.testing.assert_close(joiner.whole, whole, rtol=0, atol=0)
            assert joiner.whole.is_contiguous(memory_format=torch.channels_last)
