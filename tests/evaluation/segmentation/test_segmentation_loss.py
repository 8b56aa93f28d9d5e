"""The loss of segmentation against slow loops, and class weights counted by hand."""

import numpy as np
import pytest
import torch

from repre.data.labels.masks import IGNORE
from repre.errors import UserError
from repre.evaluation.segmentation.segmentation_loss import class_weights, segmentation_loss
from tests.oracles import segmentation as slow


@pytest.mark.parametrize("weighted", [False, True])
def test_loss_equals_slow_loops(weighted: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 5, 6, generator=generator)
    masks = torch.randint(0, 4, (2, 5, 6), generator=generator)
    masks[0, :2] = IGNORE
    weights = torch.tensor([1.0, 0.5, 3.0, 2.0]) if weighted else None
    torch.testing.assert_close(segmentation_loss(logits, masks, weights), slow.loss(logits, masks, weights))
    changed = logits.clone()
    changed[0, :, :2] += 7 * torch.randn(4, 2, 6)
    assert torch.equal(segmentation_loss(logits, masks, weights), segmentation_loss(changed, masks, weights))
    assert float(segmentation_loss(logits, torch.full_like(masks, IGNORE), weights)) == 0.0


class Masks:
    """Three masks whose class frequencies can be counted by hand."""

    spec, channels, classes = "hand", 3, ["a", "b", "c", "never"]
    masks = ([0, 0, 0, 1], [0, 0, 2, IGNORE], [0, 0, 0, 0])

    def __len__(self) -> int:
        return len(self.masks)

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((2, 2, 3), np.uint8), np.array(self.masks[index], np.uint8).reshape(2, 2)

    def describe(self, index: int) -> str:
        return str(index)

    def fingerprint(self) -> str:
        return "hand"


def test_class_weights_are_median_over_frequency() -> None:
    frequency = [9 / 11, 1 / 4, 1 / 3]  # of the counted pixels of the images that show the class
    expected = [1 / 3 / f for f in frequency] + [1.0]
    torch.testing.assert_close(class_weights(Masks(), [0, 1, 2]), torch.tensor(expected))


def test_masks_without_a_counted_pixel_are_refused() -> None:
    class Ignored(Masks):
        masks = ([IGNORE] * 4,)

    with pytest.raises(UserError, match="every pixel"):
        class_weights(Ignored(), [0])
