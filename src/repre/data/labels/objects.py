"""What a source of images with objects provides.

H, W  height and width    C  channels    n  objects of an image
"""

from typing import Any, NamedTuple, Protocol

import numpy as np

Array = np.ndarray

HELD_OUT_NOTE = "the data have no test images: a fifth of the images is held out to test"
"""Note of a source that has no split of its own."""


class Objects(NamedTuple):
    """An image and its objects.

    Attributes:
        image: [H, W, C] in uint8, uint16 or float32.
        boxes: float32 [n, 4]: left, top, right, bottom in pixels.
        labels: int64 [n], from 1: classes[label - 1].
        masks: bool [n, H, W].
        crowd: bool [n]; a crowd is neither learned nor counted against a detector.
    """

    image: Array
    boxes: Array
    labels: Array
    masks: Array
    crowd: Array


class BoxSource(Protocol):
    """Images with objects by index. Sources are sent to worker processes."""

    spec: str
    """The string that it was opened from."""
    classes: list[str]
    """Names of the classes; label c means classes[c - 1]."""
    has_masks: bool
    """Whether objects have outlines; else their masks are their boxes."""
    notes: list[str]
    """What a user should know of the data, a sentence each: images without labels, how test images are chosen."""

    def __len__(self) -> int: ...

    def load(self, index: int) -> Objects:
        """Loads image `index` with its objects; raises UserError, naming the file, if something is wrong with it."""

    def truth(self, index: int) -> list[dict[str, Any]]:
        """The objects as COCO's annotations, for an evaluator: bbox (x, y, width, height), category_id (the label),
        segmentation, area, iscrowd."""

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of image `index`, without decoding it."""

    def describe(self, index: int) -> str:
        """Name of image `index` in messages and file names."""

    def fingerprint(self) -> str:
        """A hash of which images and annotations these are."""
