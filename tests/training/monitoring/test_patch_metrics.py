"""Metrics of patch features against slow loops and known answers."""

import pytest
import torch

from repre.data.views.augmentations import ViewConfig, ViewParameters, draw
from repre.data.views.random_streams import RandomStreams
from repre.training.monitoring.embedding_metrics import effective_rank
from repre.training.monitoring.patch_metrics import depth_metrics, linear_cka, matching_cells
from tests.oracles import metrics as slow


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def parameters(count: int, *, seed: int) -> ViewParameters:
    streams = RandomStreams(seed=seed, epoch=0, positions=torch.arange(count))
    return draw(ViewConfig(), torch.full((count, 2), 48), streams)


@pytest.mark.parametrize("grid", [(4, 4), (3, 5)])
def test_matching_cells_equal_the_slow_loops(grid: tuple[int, int]) -> None:
    first, second = parameters(30, seed=0), parameters(30, seed=1)
    assert first.flip.any()
    assert not first.flip.all()
    cells, visible = matching_cells(first, second, grid=grid)
    assert visible.any()
    assert not visible.all()
    for image in range(30):
        for cell in range(grid[0] * grid[1]):
            expected = slow.matching_cell(first, second, image, cell, grid)
            assert bool(visible[image, cell]) == (expected is not None)
            assert int(cells[image, cell]) == (expected or 0)


def test_cka_ignores_rotation_scale_and_resolution() -> None:
    maps = normal(6, 8, 4, 4)
    rotation = torch.linalg.qr(normal(8, 8, seed=1)).Q
    assert linear_cka(maps, 3 * torch.einsum("bchw,cd->bdhw", maps, rotation) + 1) == pytest.approx(1, abs=1e-5)
    assert linear_cka(maps.repeat_interleave(2, 2).repeat_interleave(2, 3), maps) == pytest.approx(1, abs=1e-5)
    assert linear_cka(maps, normal(6, 5, 4, 4, seed=2)) < 0.3


def test_depth_metrics_compare_neighboring_levels() -> None:
    maps = [normal(6, 5, 8, 8), normal(6, 8, 4, 4, seed=1), normal(6, 8, 4, 4, seed=2)]
    patches = normal(6, 16, 8, seed=3)
    metrics = depth_metrics(patches, maps)
    assert set(metrics) == {"patch_rank", "level_similarity_0_1", "level_similarity_1_2"}
    assert metrics["patch_rank"] == effective_rank(patches.reshape(-1, 8))
    assert metrics["level_similarity_1_2"] == linear_cka(maps[1], maps[2])
