"""The map of a data set: CSV, page, methods and mistakes."""

import csv
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from repre.errors import UserError
from repre.exporters import map_page
from repre.exporters.data_map import MapOptions, map_files, project, write_csv, write_map
from tests.exporters.test_clusters import blobs

needs_umap = pytest.mark.skipif(importlib.util.find_spec("umap") is None, reason="umap-learn is not installed")


def load(wanted: list[int]) -> dict[int, np.ndarray]:
    """Pictures of all but image 2."""
    return {index: np.full((200, 120, 3), index, np.uint8) for index in wanted if index != 2}


def mapped(folder: Path, names: list[str] | None = None, **options: Any) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """The lines of the CSV and the data of the page, of 40 images of which the last two are equal."""
    folder.mkdir(parents=True, exist_ok=True)
    points = blobs()
    points[39] = points[38]
    out = folder / "f.npz"
    names = names or [f"photos/{index}.jpg" for index in range(40)]
    chosen = MapOptions(**({"method": "pca", "clusters": 3, "duplicate_cosine": 0.9999} | options))
    write_map(points, names, out, chosen, title="photos", load=load, log=lambda text: None)
    table, page = map_files(out)
    with open(table, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', page.read_text(encoding="utf-8"))
    assert found is not None
    return rows, json.loads(found[1])


def test_the_table_has_a_line_for_every_image_in_order(tmp_path: Path) -> None:
    rows, _ = mapped(tmp_path)
    assert list(rows[0]) == ["path", "x", "y", "cluster", "duplicate_group"]
    assert [row["path"] for row in rows] == [f"photos/{index}.jpg" for index in range(40)]
    assert [row["duplicate_group"] for row in rows] == [""] * 38 + ["0", "0"]
    assert rows[38]["x"] == rows[39]["x"]
    assert len({row["cluster"] for row in rows[:20]}) == 1
    assert map_files(tmp_path / "f.npz")[0].name == "f.map.csv"


def test_the_page_has_all_points_and_thumbnails_that_can_be_shown(tmp_path: Path) -> None:
    rows, data = mapped(tmp_path)
    by_path = {row["path"]: row for row in rows}
    assert sorted(data["paths"]) == sorted(by_path)
    assert [str(cluster) for cluster in data["clusters"]] == [by_path[path]["cluster"] for path in data["paths"]]
    assert len(data["thumbnails"]) == 39
    assert data["paths"].index("photos/2.jpg") not in map(int, data["thumbnails"])
    assert [sorted(data["paths"][point] for point in group) for group in data["shownGroups"]] == [
        ["photos/38.jpg", "photos/39.jpg"]
    ]
    assert data["groupSizes"] == [2]
    assert sum(data["clusterSizes"]) == 40
    assert min(min(place) for place in data["places"]) == 0
    assert max(max(place) for place in data["places"]) == data["steps"]


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    mapped(tmp_path / "a")
    mapped(tmp_path / "b")
    for file in ("f.map.csv", "f.map.html"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_the_page_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(mapped(tmp_path, thumbnails=7)[1]["thumbnails"]) in (6, 7)  # one image has no picture
    monkeypatch.setattr(map_page, "MAX_THUMBNAIL_BYTES", 3000)
    data = mapped(tmp_path)[1]
    assert 0 < sum(map(len, data["thumbnails"].values())) <= 3000
    monkeypatch.setattr(map_page, "MAX_POINTS", 10)
    rows, data = mapped(tmp_path)
    assert (len(rows), len(data["places"])) == (40, 10)
    assert "10 of 40 images, drawn at random" in (tmp_path / "f.map.html").read_text()


def test_names_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    names = [f"{index}</script><script>alert(1)</script>\u202e\udcff.jpg" for index in range(40)]
    _, data = mapped(tmp_path, [name.replace("\udcff", "\ufffd") for name in names])
    assert data["paths"][0].endswith("</script><script>alert(1)</script>\\u202e\ufffd.jpg")
    assert "<script>alert" not in (tmp_path / "f.map.html").read_text(encoding="utf-8")


def test_principal_components_are_those_of_numpy_and_have_fixed_signs() -> None:
    points = blobs()
    place, method = project(points, MapOptions(method="pca"))
    assert method == "PCA"
    centered = (points - points.mean(0)).double().numpy()
    _, values, _ = np.linalg.svd(centered)
    np.testing.assert_allclose(np.square(place).sum(0), values[:2] ** 2, rtol=1e-4)
    assert project(torch.ones(1, 1), MapOptions(method="auto"))[0].tolist() == [[0, 0]]


@needs_umap
def test_umap_keeps_blobs_apart_and_is_the_same_for_a_seed() -> None:
    (place, method), (again, _) = (project(blobs(), MapOptions(method="umap")) for _ in range(2))
    assert method == "UMAP"
    np.testing.assert_array_equal(place, again)
    centers = [place[part].mean(0) for part in (slice(20), slice(20, 30), slice(30, 40))]
    spread = max(float(np.linalg.norm(place[:20] - centers[0], axis=1).mean()), 1e-6)
    assert min(np.linalg.norm(centers[0] - centers[1]), np.linalg.norm(centers[0] - centers[2])) > spread


@pytest.mark.skipif(importlib.util.find_spec("umap") is not None, reason="umap-learn is installed")
def test_without_umap_auto_uses_pca_and_umap_is_refused() -> None:
    assert project(blobs(), MapOptions())[1] == "PCA"
    with pytest.raises(UserError, match=r"--map umap needs umap, which is not installed; run: pip install"):
        MapOptions(method="umap")


def test_groups_that_are_too_large_are_told(tmp_path: Path) -> None:
    said: list[str] = []
    options = MapOptions(method="pca", clusters=2, duplicate_cosine=0.5)
    write_map(blobs(), [str(i) for i in range(40)], tmp_path / "f.npz", options, title="x", load=load, log=said.append)
    assert "the largest group has 20 images: raise --map-duplicates above 0.5" in said[0]
    assert "mapped by PCA: 2 clusters" in said[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "tsne"}, "map.method must be one of auto, umap, pca, not 'tsne'"),
        ({"clusters": 0}, "--map-clusters must be at least 1"),
        ({"duplicate_cosine": 0.0}, "--map-duplicates is a cosine"),
        ({"duplicate_cosine": 1.5}, "--map-duplicates is a cosine"),
        ({"thumbnails": -1}, "map.thumbnails must not be negative"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MapOptions(**options)


def test_names_of_the_table_are_one_line_each(tmp_path: Path) -> None:
    path, numbers = tmp_path / "a.map.csv", np.zeros(2, np.int64)
    write_csv(path, ["a\x1b[31m\nb.png", "\udcff.png"], np.zeros((2, 2)), numbers, numbers)
    assert path.read_bytes().splitlines()[1:] == [rb"a\x1b[31m\nb.png,0,0,0,0", b"\xff.png,0,0,0,0"]
