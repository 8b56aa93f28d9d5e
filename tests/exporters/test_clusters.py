"""Clusters and near-duplicates against slow loops, and the same for the same seed."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from repre.exporters import clusters
from repre.exporters.clusters import kmeans, near_duplicates


def blobs(count: int = 40, seed: int = 0) -> torch.Tensor:
    """Unit vectors around three directions; the first has most."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.tensor([0] * (count // 2) + [1] * (count // 4) + [2] * (count - count // 2 - count // 4))
    centers = torch.eye(6)[:3]
    return normalize(centers[numbers] + 0.1 * torch.randn(count, 6, generator=generator), dim=1)


def test_kmeans_finds_the_blobs_and_numbers_them_by_size() -> None:
    labels, distances = kmeans(blobs(), 3, seed=0)
    assert labels.tolist() == [0] * 20 + [1] * 10 + [2] * 10 or labels.tolist() == [0] * 20 + [2] * 10 + [1] * 10
    points = blobs().numpy()
    for index, label in enumerate(labels):
        center = points[labels == label].mean(0)
        assert distances[index] == pytest.approx(((points[index] - center) ** 2).sum(), abs=1e-5)


def test_kmeans_is_the_same_for_a_seed_and_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    first = kmeans(blobs(), 5, seed=3)[0]
    monkeypatch.setattr(clusters, "COLUMNS", 7)
    np.testing.assert_array_equal(kmeans(blobs(), 5, seed=3)[0], first)


def test_kmeans_of_fewer_or_equal_points() -> None:
    labels, _ = kmeans(blobs(4), 20, seed=0)
    assert sorted(labels.tolist()) == [0, 1, 2, 3]
    assert set(kmeans(torch.ones(5, 3), 3, seed=0)[0].tolist()) == {0}
    assert kmeans(torch.ones(1, 3), 3, seed=0)[0].tolist() == [0]


def slow_groups(points: torch.Tensor, cosine: float) -> list[int]:
    """Connected images, by walking from each to all that are near."""
    near = (points @ points.T >= cosine).tolist()
    groups, number = [-1] * len(points), 0
    for start in range(len(points)):
        if groups[start] >= 0 or sum(near[start]) <= 1:
            continue
        waiting = [start]
        while waiting:
            member = waiting.pop()
            if groups[member] < 0:
                groups[member] = number
                waiting += [other for other in range(len(points)) if near[member][other]]
        number += 1
    return groups


@pytest.mark.parametrize("cosine", [0.2, 0.9, 0.97, 0.99, 1.1])
@pytest.mark.parametrize("rows", [1024, 3])
def test_groups_are_those_of_a_slow_walk(cosine: float, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "ROWS", rows)
    monkeypatch.setattr(clusters, "COLUMNS", rows + 2)
    points = blobs(60)
    assert near_duplicates(points, cosine).tolist() == slow_groups(points, cosine)


def test_a_chain_is_one_group_wherever_its_pieces_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "ROWS", 4)
    monkeypatch.setattr(clusters, "COLUMNS", 4)
    angles = torch.arange(50.0)[torch.randperm(50, generator=torch.Generator().manual_seed(0))] * 0.02
    points = torch.stack([angles.cos(), angles.sin()], dim=1)
    assert set(near_duplicates(points, float(np.cos(0.021))).tolist()) == {0}
