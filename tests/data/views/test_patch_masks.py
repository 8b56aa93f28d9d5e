"""Masks of patches hide exactly what was asked for, each image by itself."""

import math

import pytest
import torch
from torch import Tensor

from repre.data.views.patch_masks import ASPECT, block_masks, draw_masks, hide_patches, mask_counts
from repre.data.views.random_streams import RandomStreams


def uniforms(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_masks_hide_an_exact_share_in_patches() -> None:
    hidden = hide_patches(uniforms(6, 49), torch.full((6,), round(0.3 * 49)))
    assert hidden.shape == (6, 49)
    assert hidden.dtype == torch.bool
    assert (hidden.sum(1) == round(0.3 * 49)).all()
    assert len(hidden.unique(dim=0)) == 6


def test_the_lowest_numbers_hide_their_patches() -> None:
    numbers = torch.tensor([[0.4, 0.1, 0.3, 0.2], [0.1, 0.2, 0.3, 0.4], [0.9, 0.8, 0.7, 0.6]], dtype=torch.float64)
    hidden = hide_patches(numbers, torch.tensor([2, 0, 4]))
    assert hidden.tolist() == [[False, True, False, True], [False] * 4, [True] * 4]


def test_counts_have_the_wanted_share_and_mean() -> None:
    count = mask_counts(uniforms(20000, 2), ratio=(0.1, 0.5), image_share=0.6, patches=196)
    masked = count[count > 0]
    assert len(masked) / len(count) == pytest.approx(0.6, abs=0.02)
    assert masked.double().mean() / 196 == pytest.approx(0.3, abs=0.005)
    assert masked.min() == round(0.1 * 196)
    assert masked.max() == round(0.5 * 196)
    assert (mask_counts(uniforms(50, 2), ratio=(0.25, 0.25), image_share=1.0, patches=16) == 4).all()


def slow_mask(numbers: list[float], count: int, rows: int, columns: int) -> tuple[list[list[bool]], list[tuple]]:
    """One mask by the loops of the papers, and its rectangles: (top, left, height, width)."""
    hidden, left, failures, rectangles = [[False] * columns for _ in range(rows)], count, 0, []
    attempts = (len(numbers) - rows * columns) // 4
    for a in range(attempts):
        if left == 0 or failures == 10:
            break
        area = 4 + (left - 4) * numbers[4 * a]
        aspect = math.exp(math.log(0.3) + (math.log(1 / 0.3) - math.log(0.3)) * numbers[4 * a + 1])
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        failures += 1
        if height >= rows or width >= columns:
            continue
        top, start = int(numbers[4 * a + 2] * (rows - height + 1)), int(numbers[4 * a + 3] * (columns - width + 1))
        block = [(y, x) for y in range(top, top + height) for x in range(start, start + width)]
        fresh = [(y, x) for y, x in block if not hidden[y][x]]
        if 0 < len(fresh) <= left:
            for y, x in fresh:
                hidden[y][x] = True
            left, failures = left - len(fresh), 0
            rectangles.append((top, start, height, width))
    rest = [(numbers[4 * attempts + y * columns + x], y, x) for y in range(rows) for x in range(columns)]
    for _, y, x in sorted(entry for entry in rest if not hidden[entry[1]][entry[2]])[:left]:
        hidden[y][x] = True
    return hidden, rectangles


@pytest.mark.parametrize(("rows", "columns"), [(14, 14), (7, 7), (4, 6)])
def test_blocks_are_those_of_slow_loops(rows: int, columns: int) -> None:
    numbers = uniforms(60, 4 * 20 + rows * columns)
    count = torch.arange(60) % (rows * columns // 2 + 1)
    masks = block_masks(numbers, count, rows=rows, columns=columns)
    for row, wanted, mask in zip(numbers.tolist(), count.tolist(), masks):
        oracle, rectangles = slow_mask(row, wanted, rows, columns)
        assert mask.tolist() == oracle
        for _, _, height, width in rectangles:
            assert ASPECT[0] <= (height + 0.5) / (width - 0.5)
            assert (height - 0.5) / (width + 0.5) <= ASPECT[1]


def test_blocks_hide_exactly_the_count_mostly_in_rectangles() -> None:
    count = torch.arange(197)
    masks = block_masks(uniforms(197, 4 * 48 + 196), count, rows=14, columns=14)
    assert masks.dtype == torch.bool
    assert torch.equal(masks.sum((1, 2)), count)
    few = masks[20:99].float()  # of these masks, most hidden patches have a hidden neighbor
    beside = (few[:, :, 1:] * few[:, :, :-1]).sum() / few[:, :, 1:].sum()
    assert beside > 0.6


def draw(positions: Tensor, kind: str = "block", **changes: object) -> list[Tensor]:
    settings = {"ratio": (0.1, 0.5), "image_share": 0.5, "grid": (14, 14), "views": range(2)} | changes
    return draw_masks(RandomStreams(seed=0, epoch=0, positions=positions), kind=kind, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["random", "block"])
def test_every_image_is_drawn_by_itself(kind: str) -> None:
    whole = draw(torch.arange(12), kind)
    parts = [draw(torch.arange(12)[rows], kind) for rows in (slice(0, 5), slice(5, 12))]
    scattered = draw(torch.tensor([7, 0, 3]), kind)
    for view, *pieces in zip(whole, *parts):
        assert torch.equal(view, torch.cat(pieces))
    for view, few in zip(whole, scattered):
        assert torch.equal(view[[7, 0, 3]], few)
    assert not torch.equal(*whole)


@pytest.mark.parametrize("kind", ["random", "block"])
def test_a_share_of_the_views_is_masked(kind: str) -> None:
    masks = torch.cat(draw(torch.arange(1000), kind, grid=(8, 6), image_share=0.3))
    assert masks.shape == (2000, 8, 6)
    hidden = masks.float().mean((1, 2))
    assert (hidden > 0).float().mean().item() == pytest.approx(0.3, abs=0.04)
    assert hidden[hidden > 0].mean().item() == pytest.approx(0.3, abs=0.02)
    assert hidden[hidden > 0].min() >= 5 / 48
    assert hidden.max() <= 24 / 48


def test_masks_of_one_ratio_are_those_of_earlier_versions() -> None:
    """A run that is resumed has to hide the same patches."""
    (mask,) = draw(torch.tensor([5]), "random", ratio=(0.25, 0.25), image_share=1.0, grid=(4, 4), views=range(1))
    assert mask.flatten().nonzero().flatten().tolist() == PINNED


PINNED = [3, 4, 11, 13]
