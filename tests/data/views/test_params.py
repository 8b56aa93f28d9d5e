"""Drawing the parameters of views, against torchvision's rule and the wanted distributions."""

import numpy as np
import pytest
import torch

from repre.data.views.params import DRAWS, ViewConfig, draw, uniforms
from repre.data.views.patch_masks import draw_masks
from repre.errors import UserError
from tests.oracles.views import draw_box


def test_uniforms_are_a_function_of_the_position() -> None:
    run = uniforms(seed=3, epoch=1, stream=0, positions=torch.arange(100))
    assert run.shape == (100, DRAWS)
    assert run.dtype == torch.float64
    scattered = torch.tensor([7, 8, 9, 50, 3, 99, 98, 0])
    torch.testing.assert_close(uniforms(seed=3, epoch=1, stream=0, positions=scattered), run[scattered], rtol=0, atol=0)
    far = torch.tensor([2**40, 2**40 + 1])
    both = uniforms(seed=3, epoch=1, stream=0, positions=far)
    assert torch.equal(both[1:], uniforms(seed=3, epoch=1, stream=0, positions=far[1:]))
    assert uniforms(seed=3, epoch=1, stream=0, positions=torch.arange(0)).shape == (0, DRAWS)
    assert len(run.unique()) == run.numel(), "samples share random numbers"


def test_uniforms_are_pinned() -> None:
    """A run resumed with another version of the code or of numpy has to see the same views."""
    first = uniforms(seed=0, epoch=0, stream=0, positions=torch.tensor([0]))[0, :2]
    reference = np.random.Generator(np.random.Philox(key=np.array([0, 0], dtype=np.uint64))).random(2)
    assert first.tolist() == reference.tolist()
    assert first.tolist() == pytest.approx(PINNED, abs=0)


PINNED = [0.011546754286331562, 0.24154919656271812]


@pytest.mark.parametrize("change", [{"seed": 4}, {"epoch": 2}, {"stream": 1}])
def test_uniforms_differ_between_seeds_epochs_and_streams(change: dict[str, int]) -> None:
    key = {"seed": 3, "epoch": 1, "stream": 0}
    base = uniforms(**key, positions=torch.arange(64))
    other = uniforms(**(key | change), positions=torch.arange(64))
    assert not (base == other).any()
    assert abs(torch.corrcoef(torch.stack([base.flatten(), other.flatten()]))[0, 1]) < 0.07


def test_uniforms_are_uniform() -> None:
    numbers = uniforms(seed=0, epoch=0, stream=0, positions=torch.arange(4000))
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert (numbers.mean(dim=0) - 0.5).abs().max() < 0.02
    assert (numbers.var(dim=0) - 1 / 12).abs().max() < 0.005


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(UserError, match="seed=-1"):
        uniforms(seed=-1, epoch=0, stream=0, positions=torch.arange(2))


@pytest.mark.parametrize("config", [ViewConfig(), ViewConfig(scale=(0.9, 1.0), ratio=(0.5, 2.0))])
def test_boxes_equal_torchvisions_rule_image_by_image(config: ViewConfig) -> None:
    sizes = torch.tensor([(375, 500), (500, 375), (40, 300), (300, 20), (96, 96), (1, 9), (9, 1), (2, 2)]).repeat(40, 1)
    numbers = uniforms(seed=1, epoch=0, stream=0, positions=torch.arange(len(sizes)))
    boxes = draw(config, numbers, sizes).boxes
    for box, row, (height, width) in zip(boxes.tolist(), numbers.tolist(), sizes.tolist()):
        assert tuple(box) == draw_box(config, row, height, width)
        top, left, h, w = box
        assert top >= 0
        assert left >= 0
        assert min(h, w) >= 1
        assert top + h <= height
        assert left + w <= width


def test_draws_have_the_asked_distribution() -> None:
    config = ViewConfig(scale=(0.2, 0.8), jitter=0.8, grayscale=0.2, blur=0.1, solarize=0.2)
    sizes = torch.tensor([[400, 400]]).expand(5000, 2)
    drawn = draw(config, uniforms(seed=0, epoch=0, stream=0, positions=torch.arange(5000)), sizes)
    share = drawn.boxes[:, 2] * drawn.boxes[:, 3] / 400**2
    assert share.min() > 0.19
    assert share.max() < 0.81
    assert abs(share.mean() - 0.5) < 0.02
    aspect = (drawn.boxes[:, 3] / drawn.boxes[:, 2]).log()
    assert abs(aspect.mean()) < 0.01
    for chosen, p in [
        (drawn.flip, 0.5),
        (drawn.grayscale, 0.2),
        (drawn.sigma > 0, 0.1),
        (drawn.solarize, 0.2),
        (drawn.factors[:, 0] != 1, 0.8),
    ]:
        assert abs(chosen.float().mean() - p) < 0.025
    assert torch.equal(drawn.factors[:, 0] != 1, drawn.factors[:, 3] != 0), "one decision for all four changes"
    for column, (low, high) in enumerate([(0.6, 1.4), (0.6, 1.4), (0.8, 1.2), (-0.1, 0.1)]):
        values = drawn.factors[:, column]
        assert low <= values.min() < low + 0.02
        assert high - 0.02 < values.max() <= high + 1e-6
    sigma = drawn.sigma[drawn.sigma > 0]
    assert sigma.min() >= 0.1
    assert sigma.max() <= 2
    _, counts = drawn.order.unique(dim=0, return_counts=True)
    assert len(counts) == 24
    assert counts.min() > 5000 / 24 * 0.7


def test_masks_hide_an_exact_share_in_patches() -> None:
    numbers = uniforms(seed=0, epoch=0, stream=9, positions=torch.arange(6), count=49)
    masks = draw_masks(numbers, size=224, patch=32, ratio=0.3)
    assert masks.shape == (6, 1, 224, 224)
    assert masks.dtype == torch.bool
    assert (masks.sum(dim=(1, 2, 3)) == round(0.3 * 49) * 32**2).all()
    patches = masks.view(6, 7, 32, 7, 32).float().mean(dim=(2, 4))
    assert set(patches.unique().tolist()) == {0.0, 1.0}
    assert len(patches.unique(dim=0)) == 6


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"scale": (0.5, 0.2)}, "lowest <= highest"),
        ({"scale": (0.5, 1.2)}, "<= 1"),
        ({"ratio": (0.0, 1.0)}, "ratio"),
        ({"sigma": (2.0, 0.1)}, "sigma"),
        ({"flip": 1.5}, "flip=1.5"),
        ({"grayscale": -0.1}, "grayscale=-0.1"),
        ({"contrast": -1.0}, "contrast"),
        ({"hue": 0.6}, "0.5"),
        ({"filter": "nearest"}, "bicubic"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_fix(change: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        ViewConfig(**change)
