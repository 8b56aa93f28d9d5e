"""A map of images by their features: two coordinates, a cluster and a group of near-duplicates each.

features.map.csv    path, x, y, cluster, duplicate_group: one line per image, in the order of the features
features.map.html   the same as a page that opens offline, with thumbnails

    N  images    D  dimensions of the features
"""

import csv
import importlib.util
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from repre.errors import UserError
from repre.exporters.clusters import kmeans, near_duplicates
from repre.exporters.map_page import MapPage, write_page
from repre.utils.config_checks import check_fields
from repre.utils.io import write_atomically
from repre.utils.optional_imports import install_command, require
from repre.utils.printable_text import printable, say

Method = Literal["auto", "umap", "pca"]
NEIGHBORS = 15
"""Neighbors of UMAP's graph, its default."""
MANY = 0.2
"""Share of the images in one group of near-duplicates above which the threshold is too low."""


@dataclass(frozen=True, kw_only=True)
class MapOptions:
    """How images are mapped."""

    method: Method = "auto"
    """umap, pca, or auto: UMAP if it is installed."""
    clusters: int = 20
    """Number of clusters."""
    duplicate_cosine: float = 0.98
    """Cosine of centered features from which two images are near-duplicates."""
    thumbnails: int = 1000
    """Largest number of thumbnails on the page."""
    seed: int = 0
    """Seed of UMAP, of the clusters' start and of the choice of thumbnails."""

    def __post_init__(self) -> None:
        check_fields(self, "map")
        if self.clusters < 1:
            raise UserError(f"--map-clusters must be at least 1, not {self.clusters}")
        if not 0 < self.duplicate_cosine <= 1:
            raise UserError(f"--map-duplicates is a cosine and must lie in (0, 1], not {self.duplicate_cosine}")
        if self.method == "umap":
            require("umap", extra="map", purpose="--map umap")

    @property
    def by_umap(self) -> bool:
        """Whether UMAP computes the coordinates."""
        return self.method == "umap" or (self.method == "auto" and importlib.util.find_spec("umap") is not None)


def map_files(out: Path) -> tuple[Path, Path]:
    """The CSV and the page beside a file of features."""
    return out.with_name(f"{out.stem}.map.csv"), out.with_name(f"{out.stem}.map.html")


def write_map(
    features: Tensor,
    names: list[str],
    out: Path,
    options: MapOptions,
    *,
    title: str,
    load: Callable[[list[int]], dict[int, np.ndarray]],
    log: Callable[[str], object] = say,
) -> None:
    """Maps images, and writes CSV and page beside `out`.

    Args:
        features: float [N, D] on the device to compute on.
        names: of the images.
        out: the file of features.
        title: of the page: what the images are.
        load: returns small pictures of some images, uint8 [h, w, 3] by index; those that cannot be shown are missing.
        log: prints a message for the user.
    """
    table, page = map_files(out)
    points = torch.nn.functional.normalize(features.float(), dim=1)
    points = torch.nn.functional.normalize(points - points.mean(0), dim=1)
    clusters, distances = kmeans(points, options.clusters, seed=options.seed)
    groups = near_duplicates(points, options.duplicate_cosine)
    if options.by_umap:
        log(f"mapping {len(points)} images by UMAP, which takes a minute to start")
    place, method = project(points, options)
    write_csv(table, names, place, clusters, groups)
    shown = MapPage(title, method, names, place, clusters, distances, groups, options)
    write_page(page, shown, load=load)
    log(_describe(method, clusters, groups, options))
    log(f"map: {table} and {page}")


def project(points: Tensor, options: MapOptions) -> tuple[np.ndarray, str]:
    """Returns two coordinates of every image, float32 [N, 2], and what computed them.

    UMAP (McInnes et al. 2018, arXiv 1802.03426) keeps neighbors together; distances between groups say little. PCA gives
    the two directions of largest variance. Both give the same for the same seed on the same machine.

    Args:
        points: unit vectors, [N, D].
    """
    if not options.by_umap or len(points) <= 4:
        return _principal(points), "PCA"
    umap = require("umap", extra="map", purpose="--map umap")
    reducer = umap.UMAP(
        n_neighbors=min(NEIGHBORS, len(points) - 1), metric="cosine", random_state=options.seed, n_jobs=1
    )
    return np.asarray(reducer.fit_transform(points.cpu().numpy()), np.float32), "UMAP"


def _principal(points: Tensor) -> np.ndarray:
    """The first two principal components, [N, 2]; the largest weight of each is positive, which fixes the signs."""
    centered = points - points.mean(0)
    covariance = (centered.T @ centered).double().cpu()
    axes = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, :2]
    axes = axes * axes.gather(0, axes.abs().argmax(0)[None]).sign()
    place = (centered.cpu().double() @ axes).float().numpy()
    return np.pad(place, ((0, 0), (0, 2 - place.shape[1])))


def write_csv(path: Path, names: list[str], place: np.ndarray, clusters: np.ndarray, groups: np.ndarray) -> None:
    """Writes the table; names have escapes for control characters, an image without near-duplicates an empty last cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "x", "y", "cluster", "duplicate_group"))
    for name, (x, y), cluster, group in zip(names, place.tolist(), clusters.tolist(), groups.tolist()):
        writer.writerow((printable(name), f"{x:.6g}", f"{y:.6g}", cluster, "" if group < 0 else group))
    content = text.getvalue().encode("utf-8", "surrogateescape")
    write_atomically(path, lambda file: file.write(content))


def _describe(method: str, clusters: np.ndarray, groups: np.ndarray, options: MapOptions) -> str:
    """What was found, in a sentence, and what to change if the groups are too large."""
    grouped, count = int((groups >= 0).sum()), int(groups.max(initial=-1)) + 1
    told = f"mapped by {method}: {int(clusters.max()) + 1} clusters, "
    told += f"{grouped} of {len(groups)} images in {count} groups of near-duplicates"
    if method == "PCA" and options.method == "auto":
        told += f"; a map by UMAP shows more ({install_command('map')})"
    largest = int(np.bincount(groups[groups >= 0]).max(initial=0))
    if largest > max(10, MANY * len(groups)):
        told += f"\nthe largest group has {largest} images: raise --map-duplicates above {options.duplicate_cosine:g}"
    return told
