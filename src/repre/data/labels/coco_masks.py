"""Masks as COCO writes them: polygons, and run lengths down the columns, plain or compressed.

faster-coco-eval encodes and decodes them. Its C++ code allocates memory for every pixel that an outline passes, inside the
image or not, so the content of a file is checked first.

    H, W  height and width
"""

import math
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as coco_mask

Array = np.ndarray

LARGEST = 1e9
"""Larger coordinates are refused before any arithmetic."""


def encode_mask(mask: Array) -> dict[str, Any]:
    """Compresses a mask, bool [H, W], to a COCO ``segmentation`` of plain values."""
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode("ascii")}


def decode_mask(segmentation: Any, *, height: int, width: int) -> Array:
    """Decodes a COCO ``segmentation`` to a mask, bool [H, W].

    Raises:
        ValueError: it is neither polygons nor run lengths of an image of this size; the message is the reason.
    """
    encoded = _encoded(segmentation, height, width)
    try:
        return coco_mask.decode(encoded).astype(bool)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"damaged run lengths ({error})") from error


def _encoded(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """A COCO ``segmentation`` as compressed run lengths, after its content was checked."""
    if isinstance(segmentation, list):
        polygons = [_checked_polygon(polygon, height, width) for polygon in segmentation]
        return dict(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width)))
    if not isinstance(segmentation, dict) or "counts" not in segmentation or "size" not in segmentation:
        raise ValueError("neither polygons nor run lengths")
    if segmentation["size"] != [height, width]:
        raise ValueError(f"a mask of {segmentation['size']} for an image of {[height, width]}")
    return _compressed(segmentation["counts"], height, width)


def check_finite(segmentation: Any) -> None:
    """Refuses polygons with coordinates that are no finite numbers, fast; `decode_mask` checks the rest.

    Raises:
        ValueError: the message is the reason.
    """
    for polygon in segmentation if isinstance(segmentation, list) else ():
        try:
            finite = isinstance(polygon, list) and math.isfinite(sum(polygon))
        except (TypeError, OverflowError):
            finite = False
        if not finite:
            raise ValueError("a polygon with coordinates that are not finite numbers")


def polygon_area(polygon: list[float]) -> float:
    """Area within a polygon x, y, x, y, ... of three points or more; it does not cross itself."""
    xs, ys = polygon[::2], polygon[1::2]
    corners = zip(xs, ys, xs[1:] + xs[:1], ys[1:] + ys[:1])
    return abs(sum(x * next_y - next_x * y for x, y, next_x, next_y in corners)) / 2


def mask_area(segmentation: Any, *, height: int, width: int) -> float:
    """Number of pixels of a COCO ``segmentation``; ValueError as in `decode_mask`."""
    return float(coco_mask.area(_encoded(segmentation, height, width)))


def _checked_polygon(polygon: Any, height: int, width: int) -> list[float]:
    """The coordinates x, y, x, y, ... of a polygon; ValueError if it is none, far outside the image or absurdly long."""
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        raise ValueError("a polygon without three points (x, y, x, y, x, y, ...)")
    if not all(isinstance(value, int | float) and abs(value) < LARGEST for value in polygon):
        raise ValueError("a polygon with coordinates that are not finite numbers")
    points = np.array(polygon, np.float64).reshape(-1, 2)
    size = np.array([width, height])
    if (points < -size).any() or (points > 2 * size).any():
        raise ValueError(f"a polygon far outside its image of {width} x {height} pixels (width x height)")
    outline = np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum()
    if outline > height * width + 8 * (height + width):
        raise ValueError(f"a polygon with an outline of {outline:.0f} pixels, more than its image has")
    coordinates: list[float] = points.ravel().tolist()
    return coordinates


def _compressed(counts: Any, height: int, width: int) -> dict[str, Any]:
    if isinstance(counts, str):
        if not counts.isascii():
            raise ValueError("run lengths with characters that are not ASCII")
        return {"size": [height, width], "counts": counts.encode("ascii")}
    if not isinstance(counts, list) or not all(isinstance(run, int) and run >= 0 for run in counts):
        raise ValueError("run lengths that are not whole numbers of 0 or more")
    if sum(counts) != height * width:
        raise ValueError(f"run lengths that do not add up to {height} x {width} pixels")
    return dict(coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width))
