"""Drawing the parameters of views, against torchvision's rule and the wanted distributions."""

from enum import IntEnum

import pytest
import torch

from repre.data.views import augmentations
from repre.data.views.augmentations import ATTEMPTS, NUMBERS, ViewConfig, draw, draw_all
from repre.data.views.random_streams import Operation, RandomStreams
from repre.errors import UserError
from tests.oracles.views import draw_box


@pytest.mark.parametrize("config", [ViewConfig(), ViewConfig(scale=(0.9, 1.0), ratio=(0.5, 2.0))])
def test_boxes_equal_torchvisions_rule_image_by_image(config: ViewConfig) -> None:
    sizes = torch.tensor([(375, 500), (500, 375), (40, 300), (300, 20), (96, 96), (1, 9), (9, 1), (2, 2)]).repeat(40, 1)
    streams = RandomStreams(seed=1, epoch=0, positions=torch.arange(len(sizes)))
    boxes = draw(config, sizes, streams).boxes
    numbers = streams.uniforms(Operation.CROP, 2 * ATTEMPTS + 2)
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
    drawn = draw(config, sizes, RandomStreams(seed=0, epoch=0, positions=torch.arange(5000)))
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


def test_adding_an_operation_changes_no_other_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new operation before all others, and more numbers for the blur."""
    config = ViewConfig(jitter=0.8, grayscale=0.2, blur=0.5, solarize=0.2)
    streams = RandomStreams(seed=3, epoch=1, positions=torch.arange(64))
    sizes = torch.tensor([[60, 80]]).expand(64, 2)
    before = draw(config, sizes, streams, view=1)
    extended = IntEnum("Operation", {"CUTOUT": 99, **Operation.__members__})  # type: ignore[misc]
    numbers = {extended["CUTOUT"]: 11} | {extended[operation.name]: count for operation, count in NUMBERS.items()}
    numbers[extended["BLUR"]] += 40
    monkeypatch.setattr(augmentations, "Operation", extended)
    monkeypatch.setattr(augmentations, "NUMBERS", numbers)
    after = draw(config, sizes, streams, view=1)
    for name in ("boxes", "flip", "order", "factors", "grayscale", "solarize"):
        assert torch.equal(getattr(before, name), getattr(after, name)), name
    assert not torch.equal(before.sigma, after.sigma)


def test_views_draw_independently() -> None:
    config, sizes = ViewConfig(), torch.tensor([[60, 80]]).expand(64, 2)
    streams = RandomStreams(seed=0, epoch=0, positions=torch.arange(64))
    first, second = (draw(config, sizes, streams, view=view) for view in (0, 1))
    assert 16 < int((first.flip == second.flip).sum()) < 48
    assert not (first.boxes == second.boxes).all(dim=1).any()


def test_views_drawn_together_equal_views_drawn_alone() -> None:
    """To the bit, with settings of their own, and from positions with gaps."""
    sizes = torch.tensor([(375, 500), (40, 300), (300, 20), (1, 9), (96, 96)]).repeat(20, 1)
    positions = torch.arange(100) + (torch.arange(100) > 33)
    streams = RandomStreams(seed=5, epoch=2, positions=positions)
    configs = [
        ViewConfig(scale=(0.9, 1.0), ratio=(0.5, 2.0), blur=1.0),
        ViewConfig(flip=0.9, jitter=0.8, contrast=0.8, grayscale=0.2, blur=0.5, sigma=(1.0, 3.0), solarize=0.4),
        ViewConfig(scale=(0.05, 0.2), jitter=0.5, hue=0.4),
    ]
    for view, (config, together) in enumerate(zip(configs, draw_all(configs, sizes, streams), strict=True)):
        alone = draw(config, sizes, streams, view=view)
        for name in ("boxes", "flip", "order", "factors", "grayscale", "sigma", "solarize"):
            assert torch.equal(getattr(together, name), getattr(alone, name)), name


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"scale": (0.5, 0.2)}, "lowest <= highest"),
        ({"scale": (0.5, 1.2)}, "<= 1"),
        ({"ratio": (0.0, 1.0)}, "ratio"),
        ({"sigma": (2.0, 0.1)}, "sigma"),
        ({"flip": 1.5}, "flip=1.5"),
        ({"grayscale": -0.1}, "grayscale must not be negative"),
        ({"contrast": -1.0}, "contrast"),
        ({"hue": 0.6}, "0.5"),
        ({"filter": "nearest"}, "bicubic"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_fix(change: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        ViewConfig(**change)
