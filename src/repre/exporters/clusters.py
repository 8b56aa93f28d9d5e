"""Clusters of features, and groups of near-duplicates, in bounded memory and the same for the same seed.

N  images    D  dimensions    K  clusters
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from repre.utils.progress import ItemCount

STARTS, ROUNDS = 4, 50
"""Starts of k-means, of which the best counts, and most rounds of each."""
ROWS, COLUMNS = 1024, 4096
"""Images by images whose cosines are in memory at once."""


def kmeans(points: Tensor, clusters: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Clusters points by Lloyd's algorithm, started by k-means++ (Arthur and Vassilvitskii 2007); the best of a few starts.

    Args:
        points: float32 [N, D].
        clusters: K; N if there are fewer points.
        seed: of the starts.

    Returns:
        The cluster of every point, int64 [N], numbered from the largest to the smallest; and the squared distances to its
        center, float32 [N].
    """
    rng = np.random.default_rng(seed)
    found = [_lloyd(points, _start(points, min(clusters, len(points)), rng)) for _ in range(STARTS)]
    distances, labels = min(found, key=lambda pair: float(pair[0].double().sum()))
    numbers = labels.cpu().numpy()
    order = np.argsort(-np.bincount(numbers, minlength=clusters), kind="stable")
    return np.argsort(order)[numbers], distances.cpu().numpy()


def _start(points: Tensor, clusters: int, rng: np.random.Generator) -> Tensor:
    """Centers that are drawn far from each other, [K, D]."""
    centers = points[[int(rng.integers(len(points)))]]
    nearest = _distances(points, centers)[0]
    while len(centers) < clusters:
        weights = nearest.double().cpu().numpy()
        total = weights.sum()
        chosen = int(rng.choice(len(points), p=weights / total)) if total > 0 else int(rng.integers(len(points)))
        centers = torch.cat([centers, points[[chosen]]])
        nearest = torch.minimum(nearest, _distances(points, centers[-1:])[0])
    return centers


def _lloyd(points: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """Moves the centers until no point changes its cluster; gives what `_distances` does."""
    labels = torch.full((len(points),), -1, device=points.device)
    for _ in range(ROUNDS):
        found = _distances(points, centers)[1]
        if torch.equal(found, labels):
            break
        labels = found
        one_hot = torch.nn.functional.one_hot(labels, len(centers)).float()
        counts = one_hot.sum(0)[:, None]
        centers = torch.where(counts > 0, one_hot.T @ points / counts.clamp_min(1), centers)
    return _distances(points, centers)


def _distances(points: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """The squared distance to the nearest center, [N], and its number, int64 [N]."""
    parts = [((piece[:, None] - centers) ** 2).sum(2).min(1) if len(centers) == 1 else _nearest(piece, centers)
             for piece in points.split(COLUMNS)]  # fmt: skip
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _nearest(points: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    squared = points.square().sum(1, keepdim=True) - 2 * points @ centers.T + centers.square().sum(1)
    values, labels = squared.min(1)
    return values.clamp_min(0), labels


def near_duplicates(points: Tensor, cosine: float) -> np.ndarray:
    """Groups images whose features point in nearly the same direction.

    Two images are in one group if a chain of images connects them whose neighbors have a cosine of at least `cosine`.

    Args:
        points: unit vectors, float32 [N, D].

    Returns:
        The group of every image, int64 [N], numbered by their first images; -1 for images in none.
    """
    parent = np.arange(len(points))
    with ItemCount("near-duplicates", total=len(points)) as counter:
        for start in range(0, len(points), ROWS):
            rows = points[start : start + ROWS]
            for first, second in _similar(points, rows, start, cosine):
                _join(parent, first, second)
            counter.update(len(rows))
    roots = _roots(parent, np.arange(len(points)))
    sizes = np.bincount(roots, minlength=len(points))
    numbers = np.cumsum(sizes > 1) - 1
    return np.where(sizes[roots] > 1, numbers[roots], -1)


def _similar(points: Tensor, rows: Tensor, start: int, cosine: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of images, the first among `rows`, the second the same or a later one."""
    for column in range(start, len(points), COLUMNS):
        first, second = (rows @ points[column : column + COLUMNS].T >= cosine).nonzero().cpu().numpy().T
        yield first + start, second + column


def _join(parent: np.ndarray, first: np.ndarray, second: np.ndarray) -> None:
    """Joins the groups of pairs, all at once: the smallest number of a group becomes its root."""
    while len(first):
        first, second = _roots(parent, first), _roots(parent, second)
        differ = first != second
        first, second = first[differ], second[differ]
        np.minimum.at(parent, np.maximum(first, second), np.minimum(first, second))


def _roots(parent: np.ndarray, members: np.ndarray) -> np.ndarray:
    roots = parent[members]
    while not np.array_equal(roots, above := parent[roots]):
        roots = above
    return roots
