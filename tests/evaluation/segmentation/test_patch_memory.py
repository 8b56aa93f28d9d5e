"""The memory of labeled patches and its votes, against slow loops."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from repre.data.labels.masks import IGNORE, MaskSource, open_masks
from repre.data.labels.windows import WindowsConfig
from repre.errors import UserError
from repre.evaluation.classification.knn import nearest_votes
from repre.evaluation.maps import CachedMaps, cached_maps
from repre.evaluation.segmentation.patch_memory import (
    PatchMemory,
    fill_memory,
    shares_of_classes,
    unit_patches,
    votes_of_maps,
)
from repre.models.encoder import Encoder
from tests.evaluation.tiny_eval import on_cpu
from tests.oracles import segmentation as oracle
from tests.tiny import ENCODERS, SIDES

CPU = torch.device("cpu")


def scene_maps(name: str, cache: Path, *, images: int = 3) -> tuple[CachedMaps, MaskSource]:
    torch.manual_seed(0)
    source = open_masks(f"scenes:{images}:{SIDES[name] * 3 // 2}")
    encoder = Encoder(ENCODERS[name])
    mean = std = torch.full((3, 1, 1), 0.5)
    windows = WindowsConfig(size=SIDES[name], short_side=0)
    levels = list(range(len(encoder.out_indices)))
    return (
        cached_maps(encoder, source, windows, mean=mean, std=std, levels=levels, norm=True, runtime=on_cpu(cache)),
        source,
    )


def filled(
    maps: CachedMaps, source: MaskSource, *, limit: int = 10**6, windows: list[int] | None = None, seed: int = 0
) -> PatchMemory:
    chosen = np.arange(len(maps.masks)) if windows is None else np.array(windows)
    return fill_memory(maps, chosen, unit_patches(-1), source=source, limit=limit, seed=seed, device=CPU)


@pytest.mark.parametrize(("side", "grid"), [(8, (2, 2)), (7, (3, 3)), (6, (6, 6)), (5, (2, 4)), (4, (6, 6))])
def test_shares_are_those_of_slow_loops(side: int, grid: tuple[int, int]) -> None:
    masks = torch.randint(0, 4, (3, side, side), generator=torch.Generator().manual_seed(side)).to(torch.uint8)
    masks[masks == 3] = IGNORE
    masks[2] = IGNORE
    found = shares_of_classes(masks, grid, 3)
    for mask, cells in zip(masks, found):
        torch.testing.assert_close(cells, torch.tensor(oracle.shares_of_classes(mask, grid, 3)))
    assert not found[2].any()


@pytest.mark.parametrize("name", ["vit", "swin"])
@pytest.mark.parametrize("k", [1, 5, 10**4])
def test_votes_are_those_of_slow_loops(name: str, k: int, tmp_path: Path) -> None:
    maps, source = scene_maps(name, tmp_path)
    memory = filled(maps, source)
    size = SIDES[name]
    found = list(votes_of_maps(memory, maps, source, unit_patches(-1), k=k, temperature=0.1, size=size))
    assert [len(image.windows) for image in found] == [4, 4, 4]
    deepest = maps.read(np.arange(len(maps.masks)), CPU)[-1]
    features = deepest.flatten(2).transpose(1, 2).flatten(0, 1)
    grid = (deepest.shape[2], deepest.shape[3])
    labels = [cell for mask in maps.masks for cell in oracle.shares_of_classes(torch.tensor(mask), grid, 11)]
    expected = torch.tensor(
        [oracle.patch_votes(features, labels, query, k=k, temperature=0.1) for query in features[:: 7 if k < 9 else 40]]
    )
    unit = F.normalize(features, dim=1)
    votes = nearest_votes(memory.features, memory.labels, unit, k=(k,), temperature=0.1, classes=11)[k]
    torch.testing.assert_close(votes[:: 7 if k < 9 else 40], expected, rtol=1e-3, atol=1e-4)
    first = votes.view(len(deepest), *grid, 11).permute(0, 3, 1, 2)[:4]
    torch.testing.assert_close(found[0].windows, F.interpolate(first, (size, size), mode="bilinear"))
    assert (found[1].truth.numpy() == source.load(1)[1]).all()


def test_a_bounded_memory_holds_a_seeded_part_of_every_window(tmp_path: Path) -> None:
    maps, source = scene_maps("vit", tmp_path)
    everything, part, other = (
        filled(maps, source),
        filled(maps, source, limit=60),
        filled(maps, source, limit=60, seed=1),
    )
    assert len(everything.labels) == 12 * 16
    assert len(part.labels) == 60
    assert torch.equal(part.features, filled(maps, source, limit=60).features)
    assert not torch.equal(part.features, other.features)
    rows = {tuple(row) for row in everything.features.tolist()}
    assert all(tuple(row) in rows for row in part.features.tolist())
    alone = filled(maps, source, limit=10, windows=[4, 5])
    assert torch.equal(alone.features[:5], part.features[20:25])  # of window 4, whatever the others are
    assert len(filled(maps, source, limit=7).labels) == 7  # fewer than windows


def test_patches_without_a_label_are_left_out(tmp_path: Path) -> None:
    maps, source = scene_maps("vit", tmp_path)
    masks = np.array(maps.masks)
    masks[:, :8] = IGNORE
    some = CachedMaps(maps.levels, masks, maps.first, maps.plans)
    memory = filled(some, source)
    assert len(memory.labels) == 12 * 12
    assert torch.allclose(memory.labels.sum(1), torch.ones(()))
    masks[:] = IGNORE
    with pytest.raises(UserError, match="label some"):
        filled(some, source)
