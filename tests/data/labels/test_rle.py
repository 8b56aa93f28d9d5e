"""Run lengths and polygons mean the masks that pycocotools reads from them."""

import numpy as np
import pytest

from repre.data.labels import rle

packer = pytest.importorskip("pycocotools.mask")


@pytest.mark.parametrize("seed", range(20))
def test_run_lengths_there_and_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(v) for v in rng.integers(1, 40, 2))
    mask = rng.random((height, width)) < rng.random()
    plain = rle.encode(mask)
    packed = packer.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert packer.frPyObjects(plain, height, width)["counts"] == packed["counts"]
    for form in (plain, packed, packed | {"counts": packed["counts"].decode()}):
        assert (rle.decode(form, height=height, width=width) == mask).all()


def test_polygons_cover_what_pycocotools_covers() -> None:
    rings = [[10.0, 10.0, 50.0, 12.0, 45.0, 40.0, 12.0, 44.0], [60.0, 60.0, 90.0, 60.0, 90.0, 90.0, 60.0, 90.0]]
    theirs = packer.decode(packer.merge(packer.frPyObjects(rings, 100, 100))).astype(bool)
    mine = rle.decode(rings, height=100, width=100)
    assert (mine & theirs).sum() / (mine | theirs).sum() > 0.95


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        ({"size": [4, 4], "counts": [3, 3]}, "add up"),
        ({"size": [4, 4], "counts": [-1, 17]}, "add up"),
        ({"size": [5, 4], "counts": [20]}, r"a mask of \[5, 4\]"),
        ({"counts": [16]}, "neither"),
        ({"size": [4, 4], "counts": "\x7f"}, "characters"),
        ({"size": [4, 4], "counts": "P"}, "in the middle"),
        ([[1, 2, 3, 4]], "three points"),
        ("text", "neither"),
    ],
)
def test_what_is_no_mask_is_refused(segmentation: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        rle.decode(segmentation, height=4, width=4)
