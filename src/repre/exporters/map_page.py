"""The page of a map: one HTML file of bounded size with a scatter plot, clusters and near-duplicates, and thumbnails.

N  images
"""

import base64
import hashlib
import html
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from repre.utils.io import write_atomically

if TYPE_CHECKING:
    from repre.exporters.data_map import MapOptions

MAX_POINTS = 20_000
"""Images that the page draws; more are drawn by lot, and the CSV has all."""
MAX_THUMBNAIL_BYTES = 8_000_000
"""Of all thumbnails together, as text in the page."""
SIDE, JPEG = 96, 60
"""Largest side of a thumbnail in pixels, and its quality."""
GROUPS, PER_GROUP, PER_CLUSTER = 40, 6, 8
"""Groups of near-duplicates that are shown, and pictures of each and of every cluster."""
STEPS = 10_000
"""Steps of a coordinate on the page."""


@dataclass(frozen=True)
class MapPage:
    """What the page shows.

    Attributes:
        title: what the images are.
        method: UMAP or PCA.
        names: of the N images.
        place: coordinates, [N, 2].
        clusters: of every image, [N].
        distances: to the center of its cluster, [N].
        groups: of near-duplicates, [N]; -1 for none.
        options: thumbnails and seed.
    """

    title: str
    method: str
    names: list[str]
    place: np.ndarray
    clusters: np.ndarray
    distances: np.ndarray
    groups: np.ndarray
    options: "MapOptions"


def write_page(path: Path, page: MapPage, *, load: Callable[[list[int]], dict[int, np.ndarray]]) -> None:
    """Writes the page.

    Args:
        load: returns pictures by index, uint8 [h, w, 3]; those that cannot be shown are missing.
    """
    points, shown_groups, shown_clusters = choose(page)
    wanted = points[: page.options.thumbnails]
    thumbnails = encode(load(wanted), wanted)
    number = {index: position for position, index in enumerate(points)}
    low, high = page.place.min(0), page.place.max(0)
    scaled = (page.place[points] - low) / np.maximum(high - low, 1e-12) * STEPS
    data = {
        "steps": STEPS,
        "places": scaled.round().astype(int).tolist(),
        "paths": [_readable(page.names[index]) for index in points],
        "clusters": page.clusters[points].tolist(),
        "groups": page.groups[points].tolist(),
        "thumbnails": {number[index]: uri for index, uri in thumbnails.items()},
        "shownGroups": [_with_pictures(members, thumbnails, number) for members in shown_groups],
        "groupSizes": np.bincount(page.groups[page.groups >= 0]).tolist()[: len(shown_groups)],
        "shownClusters": [_with_pictures(members, thumbnails, number) for members in shown_clusters],
        "clusterSizes": np.bincount(page.clusters).tolist(),
    }
    write_atomically(path, lambda file: file.write(_render(page, data, shown=len(points)).encode("utf-8", "replace")))


def choose(page: MapPage) -> tuple[list[int], list[list[int]], list[list[int]]]:
    """The images that are drawn, those that should have a thumbnail first; pictures of groups; pictures of clusters."""
    numbered = [np.flatnonzero(page.groups == group) for group in range(min(GROUPS, page.groups.max(initial=-1) + 1))]
    groups = [members[:PER_GROUP].tolist() for members in numbered]
    clusters = []
    for cluster in range(int(page.clusters.max(initial=-1)) + 1):
        members = np.flatnonzero(page.clusters == cluster)
        clusters.append(members[np.argsort(page.distances[members], kind="stable")[:PER_CLUSTER]].tolist())
    rest = np.random.default_rng(page.options.seed).permutation(len(page.names)).tolist()
    order = dict.fromkeys([*(i for part in clusters for i in part), *(i for part in groups for i in part), *rest])
    return list(order)[:MAX_POINTS], groups, clusters


def encode(pictures: dict[int, np.ndarray], order: list[int]) -> dict[int, str]:
    """Pictures as data URIs by index, in this order until they are too many bytes."""
    uris: dict[int, str] = {}
    total = 0
    for index in order:
        if index not in pictures:
            continue
        image = Image.fromarray(pictures[index])
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=JPEG)
        uri = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
        total += len(uri)
        if total > MAX_THUMBNAIL_BYTES:
            break
        uris[index] = uri
    return uris


def _with_pictures(members: list[int], thumbnails: dict[int, str], number: dict[int, int]) -> list[int]:
    """The numbers on the page of those images that have a thumbnail."""
    return [number[index] for index in members if index in thumbnails]


def _render(page: MapPage, data: dict[str, Any], *, shown: int) -> str:
    style, script, frame = (_asset(f"map.{ending}") for ending in ("css", "js", "html"))
    count = len(page.names)
    drawn = f"{count} images" if shown == count else f"{shown} of {count} images, drawn at random"
    values = {
        "title": html.escape(_readable(page.title)),
        "lead": html.escape(
            f"{drawn}, by {page.method}; {len(data['thumbnails'])} with a thumbnail. Near images have similar features."
        ),
        "style": style,
        "script": script,
        "style_hash": _csp_hash(style),
        "script_hash": _csp_hash(script),
        "data": json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
    }
    for name, value in values.items():
        frame = frame.replace(f"{{{{ {name} }}}}", value)
    return frame


def _readable(text: str) -> str:
    """File names may hold control characters and half characters, which become visible codes."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def _asset(name: str) -> str:
    return (files("repre.exporters") / "assets" / name).read_text(encoding="utf-8")


def _csp_hash(text: str) -> str:
    """Gives the name of an inline style or script in a Content-Security-Policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
