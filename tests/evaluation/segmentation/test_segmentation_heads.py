"""The heads on the maps of every kind of encoder."""

import pytest
import torch

from repre.evaluation.segmentation.segmentation_heads import LinearHead, UPerNet
from tests.oracles import segmentation as slow

PYRAMID = [(8, 16), (12, 8), (16, 4), (20, 2)]
FLAT = [(8, 4)] * 4


def maps(layout: list[tuple[int, int]], batch: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, width, side, side, generator=generator) for width, side in layout]


@pytest.mark.parametrize("layout", [PYRAMID, FLAT], ids=["pyramid", "flat"])
@pytest.mark.parametrize("training", [True, False])
def test_linear_head_is_one_convolution_over_stacked_levels(layout: list[tuple[int, int]], training: bool) -> None:
    head = LinearHead([width for width, _ in layout], 5, frozen=True).train(training)
    torch.nn.init.normal_(head.bias)
    torch.testing.assert_close(head(maps(layout)), slow.linear_head(head, maps(layout)))


def test_frozen_statistics_are_the_mean_over_all_batches() -> None:
    head = LinearHead([3], 2, frozen=True)
    batches = [torch.randn(4, 3, 5, 5) + shift for shift in (0.0, 1.0, 5.0)]
    for batch in batches:
        head([batch])
    expected = torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0)
    torch.testing.assert_close(head.norms[0].running_mean, expected)


@pytest.mark.parametrize(
    ("layout", "strides", "finest"),
    [
        (PYRAMID, [4, 8, 16, 32], 16),
        (FLAT, [16] * 4, 16),  # the shallowest map is upsampled by 4
        (FLAT, [8] * 4, 8),
        (FLAT, [4] * 4, 4),
        (FLAT[:1], [16], 4),
        ([(8, 5), (8, 3)], [8, 16], 5),  # grids that were rounded up
    ],
)
def test_upernet_works_on_the_finest_grid_with_gradients_everywhere(
    layout: list[tuple[int, int]], strides: list[int], finest: int
) -> None:
    head = UPerNet([width for width, _ in layout], strides, 5, width=8)
    logits = head(maps(layout, batch=3))
    assert logits.shape == (3, 5, finest, finest)
    logits.square().mean().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    assert all(bool(p.grad.abs().sum() > 0) for n, p in head.named_parameters() if n.endswith("weight") and p.ndim > 1)


def test_flat_maps_become_the_pyramid_of_beit() -> None:
    head = UPerNet([8] * 4, [16] * 4, 5, width=8)
    sides = [scale(level).shape[-1] for scale, level in zip(head.scales, maps(FLAT))]
    assert sides == [16, 8, 4, 2]


def test_every_level_reaches_the_logits() -> None:
    head = UPerNet([width for width, _ in PYRAMID], [4, 8, 16, 32], 5, width=8).eval()
    before = head(maps(PYRAMID))
    for level in range(4):
        changed = maps(PYRAMID)
        changed[level] = changed[level].flip(-1)
        assert not torch.allclose(head(changed), before)
