"""Batches of a detector: flips move everything together, and every step is a function of its number."""

import numpy as np
import pytest
import torch

from repre.data.labels.boxes import open_boxes
from repre.data.loading.order import epoch_order
from repre.evaluation.detection.detection_data import TrainBatches, flip_horizontally, to_images, to_targets

CPU = torch.device("cpu")


def test_a_flip_moves_boxes_and_masks_with_the_image() -> None:
    objects = open_boxes("scenes:8:48").load(0)
    flipped = flip_horizontally(objects)
    assert np.array_equal(flipped.image[:, ::-1], objects.image)
    for (left, top, right, bottom), mask in zip(flipped.boxes, flipped.masks):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert (left, top, right, bottom) == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)


def test_about_half_of_the_images_are_flipped_and_an_epoch_shows_each_once() -> None:
    source = open_boxes("scenes:8:48")
    batches = TrainBatches(source, list(range(8)), batch_size=4, steps_per_epoch=2, seed=0)
    flips = []
    for step in range(8):
        epoch, half = divmod(step, 2)
        batch = batches[step]
        assert isinstance(batch, list)
        for index, objects in zip(epoch_order(8, seed=0, epoch=epoch)[4 * half : 4 * half + 4], batch):
            original = source.load(int(index)).image
            flipped = not np.array_equal(objects.image, original)
            assert np.array_equal(objects.image, original[:, ::-1] if flipped else original)
            flips.append(flipped)
    assert 0.2 < np.mean(flips) < 0.8


@pytest.mark.parametrize(("dtype", "largest"), [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1.0)])
def test_images_are_scaled_by_their_type(dtype: type, largest: float) -> None:
    objects = open_boxes("scenes:1:48").load(0)
    objects = objects._replace(image=np.full((4, 6, 3), largest, dtype))
    (image,) = to_images([objects.image], CPU)
    assert image.shape == (3, 4, 6)
    assert torch.equal(image, torch.ones(3, 4, 6))


def test_crowds_are_not_targets() -> None:
    objects = open_boxes("scenes:1:48").load(0)
    (targets,) = to_targets([objects], CPU)
    assert torch.equal(targets["boxes"], torch.from_numpy(objects.boxes))
    (none,) = to_targets([objects._replace(crowd=np.ones_like(objects.crowd))], CPU)
    assert {name: len(values) for name, values in none.items()} == {"boxes": 0, "labels": 0, "masks": 0}
