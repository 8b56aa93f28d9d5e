"""Training crops: image and mask keep together, and a crop is a function of the seed and its place."""

import numpy as np
import torch

from repre.data.labels.crops import Crops, CropSteps, crop_batches, render_crops
from repre.data.labels.masks import IGNORE, open_masks
from repre.data.labels.windows import WindowsConfig

ZERO, ONE = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
SIZE = 32


class Blocks:
    """Random label blocks whose image shows the label as its gray value, so that one can be checked by the other."""

    spec, channels, classes = "blocks", 1, [str(number) for number in range(5)]

    def __len__(self) -> int:
        return 6

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.random.default_rng(index).integers(0, 5, (4, 5 + index % 2)).astype(np.uint8)
        mask = labels.repeat(8, 0).repeat(8, 1)
        return (50 * mask)[..., None], mask

    def describe(self, index: int) -> str:
        return f"block {index}"

    def fingerprint(self) -> str:
        return "blocks"


def steps(seed: int = 0, chosen: list[int] | None = None, scale: tuple[float, float] = (0.5, 2.0)) -> CropSteps:
    return CropSteps(
        Blocks(),
        list(range(6)) if chosen is None else chosen,
        WindowsConfig(size=SIZE),
        scale=scale,
        batch_size=4,
        steps_per_epoch=3,
        seed=seed,
        mean=torch.full((1, 1, 1), 0.5),
    )


def shown(crops: Crops, seed: int = 0, jitter: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    return render_crops(crops, size=SIZE, seed=seed, jitter=jitter, mean=ZERO, std=ONE, device=torch.device("cpu"))


def test_image_and_mask_have_one_geometry() -> None:
    agree = known = padded = 0
    for crops in crop_batches(steps(), start=0, total=12, workers=0, pin=False):
        images, masks = shown(crops)
        assert images.shape == (4, 1, SIZE, SIZE)
        assert masks.shape == (4, SIZE, SIZE)
        there = masks != IGNORE
        agree += int(((images[:, 0] * 255 / 50).round() == masks)[there].sum())
        known += int(there.sum())
        padded += int((~there).sum())
        assert ((images[:, 0][~there] - 0.5).abs() < 0.35).all()
    assert agree / known > 0.9  # the rest lies on blurred borders; a flip or shift of one of the two gives about 0.5
    assert padded > 0  # images scaled below the crop occur


def test_scales_and_flips_vary() -> None:
    sides = torch.cat([steps()[step].sides for step in range(30)])
    assert SIZE // 2 <= sides.min() < 20
    assert 50 < sides.max() <= 2 * SIZE
    crops = steps()[0]
    one = Crops(*(value[:1].repeat(64, *[1] * (value.ndim - 1)) for value in crops[:3]), torch.arange(64), 0)
    _, masks = shown(one)
    flipped = (masks == masks[0]).flatten(1).all(1)
    assert 16 < int(flipped.sum()) < 48
    assert (masks[~flipped] == masks[0].flip(1)).all()


def test_one_scale_keeps_pixels_as_they_are() -> None:
    crops = steps(scale=(1.0, 1.0))[0]
    assert crops.sides.tolist() == [SIZE] * 4
    assert crops.masks.shape == (4, SIZE, SIZE)
    images, masks = shown(crops)
    assert torch.allclose(images[:, 0] * 255, 50.0 * masks, atol=0.01)


def test_a_step_is_a_function_of_seed_and_number() -> None:
    def at(seed: int, step: int, start: int, workers: int = 0) -> Crops:
        batches = crop_batches(steps(seed), start=start, total=step + 1, workers=workers, pin=False)
        return list(batches)[-1]

    a, b, other = at(0, 5, 0), at(0, 5, 5, workers=1), at(1, 5, 5)
    assert (shown(a)[0] == shown(b)[0]).all()
    assert (shown(a)[1] == shown(b)[1]).all()
    assert not (a.masks == other.masks).all()
    assert not (shown(a)[0] == shown(at(0, 4, 4))[0]).all()


def test_few_images_fill_a_batch_with_different_crops() -> None:
    crops = steps(chosen=[2])[0]
    assert len(crops.masks) == 4
    assert not (crops.masks[0] == crops.masks[1]).all()


def test_jitter_changes_images_and_no_mask() -> None:
    config = WindowsConfig(size=SIZE)
    mean = torch.full((3, 1, 1), 0.5)
    source = open_masks("scenes:4:32")
    data = CropSteps(source, [0, 1], config, scale=(0.5, 2), batch_size=2, steps_per_epoch=1, seed=0, mean=mean)
    plain, colored = (
        render_crops(data[0], size=SIZE, seed=0, jitter=p, mean=mean, std=mean, device=torch.device("cpu"))
        for p in (0.0, 1.0)
    )
    assert (plain[1] == colored[1]).all()
    assert (plain[0] - colored[0]).abs().amax((1, 2, 3)).min() > 0.05
