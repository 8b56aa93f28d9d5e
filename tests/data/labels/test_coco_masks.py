"""Masks in COCO's forms: there and back, equal to pycocotools, and hostile content refused before C++ code sees it."""

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from repre.data.labels.coco_masks import decode_mask, encode_mask, mask_area, polygon_area

reference = pytest.importorskip("pycocotools.mask")


@pytest.mark.parametrize("seed", range(20))
def test_run_lengths_there_and_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(v) for v in rng.integers(1, 40, 2))
    mask = rng.random((height, width)) < rng.random()
    segmentation = encode_mask(mask)
    assert json.loads(json.dumps(segmentation)) == segmentation
    expected = reference.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert segmentation["counts"] == expected["counts"].decode()
    runs = np.flatnonzero(np.diff(mask.T.ravel().astype(int))) + 1
    plain = np.diff([0, *([0] if mask[0, 0] else []), *runs, mask.size]).tolist()
    for counts in (segmentation["counts"], plain):
        decoded = decode_mask({"size": [height, width], "counts": counts}, height=height, width=width)
        assert decoded.dtype == bool
        assert (decoded == mask).all()


def test_polygons_equal_pycocotools() -> None:
    polygons = [[10.0, 10, 50, 12.5, 45, 40, 12, 44], [60, 60, 90, 60, 90, 90, 60, 90], [-5, 70, 20, 70, 20, 120.5]]
    expected = reference.decode(reference.merge(reference.frPyObjects(polygons, 100, 95)))
    assert (decode_mask(polygons, height=100, width=95) == expected).all()


@pytest.mark.parametrize("corners", [3, 4, 9])
def test_areas_equal_those_of_pixels(corners: int) -> None:
    rng = np.random.default_rng(corners)
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    points = 100 + 90 * np.stack([np.cos(angles), np.sin(angles)], 1) * rng.uniform(0.6, 1, (corners, 1))
    for polygon in (points.ravel().tolist(), points[::-1].ravel().tolist()):
        pixels = decode_mask([polygon], height=200, width=200).sum()
        assert mask_area([polygon], height=200, width=200) == pixels
        assert polygon_area(polygon) == pytest.approx(pixels, rel=0.02)
    assert polygon_area([1.0, 1, 4, 1, 4, 3, 1, 3]) == 6


def test_polygons_without_area_are_empty() -> None:
    assert not decode_mask([[1, 1, 1, 1, 1, 1], [0, 2, 3, 2, 1, 2]], height=4, width=4).any()


HOSTILE: list[tuple[Any, str]] = [
    ({"size": [4, 4], "counts": [3, 3]}, "add up"),
    ({"size": [4, 4], "counts": []}, "add up"),
    ({"size": [4, 4], "counts": [-1, 17]}, "0 or more"),
    ({"size": [4, 4], "counts": [16.0]}, "whole numbers"),
    ({"size": [4, 4], "counts": ["16"]}, "whole numbers"),
    ({"size": [4, 4], "counts": [10**30]}, "add up"),
    ({"size": [4, 4], "counts": None}, "whole numbers"),
    ({"size": [4, 4], "counts": {"a": 1}}, "whole numbers"),
    ({"size": [5, 4], "counts": [20]}, r"a mask of \[5, 4\]"),
    ({"size": [10**6, 10**6], "counts": [10**12]}, "a mask of"),
    ({"size": None, "counts": [16]}, "a mask of None"),
    ({"counts": [16]}, "neither"),
    ({"size": [4, 4], "counts": ""}, "damaged"),
    ({"size": [4, 4], "counts": "\x7f"}, "damaged"),
    ({"size": [4, 4], "counts": "ä"}, "ASCII"),
    ({"size": [4, 4], "counts": "P"}, "damaged"),
    ({"size": [4, 4], "counts": 60 * "o"}, "damaged"),
    ({"size": [4, 4], "counts": "oooooooooo5"}, "damaged"),
    ({"size": [4, 4], "counts": 1000 * "1"}, "damaged"),
    ([[1, 2, 3, 4]], "three points"),
    ([[1, 2, 3, 4, 5, 6, 7]], "three points"),
    ([1, 2, 3, 4, 5, 6], "three points"),
    ([[]], "three points"),
    ([[1, 1, 3, 1, float("nan"), 3]], "finite"),
    ([[1, 1, 3, 1, float("inf"), 3]], "finite"),
    ([[1, 1, 3, 1, "3", 3]], "finite"),
    ([[1, 1, 3, 1, [3], 3]], "finite"),
    ([[1, 1, 3, 1, 10**400, 3]], "finite"),
    ([[1, 1, 3, 1, 1e8, 3]], "far outside"),
    ([[1, 1, 3, 1, 3, -5]], "far outside"),
    ([[0, 0, 4, 4] * 50], "outline"),
    ("text", "neither"),
    (7, "neither"),
]


@pytest.mark.parametrize(("segmentation", "reason"), HOSTILE)
def test_what_is_no_mask_is_refused(segmentation: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode_mask(segmentation, height=4, width=4)


FUZZ = """
import numpy as np
from repre.data.labels.coco_masks import decode_mask, encode_mask, mask_area, polygon_area

rng = np.random.default_rng(0)
outcomes = {"read": 0, "refused": 0}
for number in range(4000):
    height, width = (int(v) for v in rng.integers(1, 30, 2))
    if number % 2:
        counts = encode_mask(rng.random((height, width)) < 0.3)["counts"]
        text = list(counts)
        for _ in range(rng.integers(3)):
            text[rng.integers(len(text))] = chr(rng.integers(128))
        segmentation = {"size": [height, width], "counts": "".join(text)}
    else:
        side, lengths = max(height, width), 2 * rng.integers(2, 6, rng.integers(1, 4))
        segmentation = [rng.uniform(-side, 2 * side, length).tolist() for length in lengths]
    try:
        assert decode_mask(segmentation, height=height, width=width).shape == (height, width)
        outcomes["read"] += 1
    except ValueError:
        outcomes["refused"] += 1
assert min(outcomes.values()) > 200, outcomes
"""


def test_random_damage_never_ends_the_process() -> None:
    """In a process of its own, which a crash of C++ code would end."""
    subprocess.run([sys.executable, "-c", FUZZ], check=True, timeout=120)
