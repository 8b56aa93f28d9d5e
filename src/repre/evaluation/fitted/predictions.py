"""What fitted models predict for one image: classes, a map of classes, depth, or boxes.

H, W  height and width of the image    C  classes    n  objects
"""

from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Classes:
    """The classes of an image."""

    name: str
    """The image: its path, or its number for images in memory."""
    labels: tuple[str, ...]
    """Names of classes, likeliest first: all of them, or of images with several labels those above the threshold."""
    scores: tuple[float, ...]
    """Probabilities of `labels`."""
    probabilities: Array
    """Probabilities of all classes in the order of the model's `classes`, float32 [C]; with several labels per image they
    are independent of each other."""


@dataclass(frozen=True)
class Masks:
    """The class of every pixel of an image."""

    name: str
    """The image: its path, or its number for images in memory."""
    labels: Array
    """Numbers of classes at the image's own resolution, uint8 [H, W]; number c means `classes[c]`."""
    classes: tuple[str, ...]
    """Names of the classes."""

    def shares(self) -> dict[str, float]:
        """Returns the share of the image's pixels of every class that occurs, by its name."""
        counts = np.bincount(self.labels.ravel(), minlength=len(self.classes))
        return {name: float(count) / self.labels.size for name, count in zip(self.classes, counts) if count}


@dataclass(frozen=True)
class DepthMap:
    """The depth of every pixel of an image."""

    name: str
    """The image: its path, or its number for images in memory."""
    depth: Array
    """Meters at the image's own resolution, float32 [H, W]."""


@dataclass(frozen=True)
class Boxes:
    """The objects of an image, likeliest first."""

    name: str
    """The image: its path, or its number for images in memory."""
    size: tuple[int, int]
    """Height and width of the image."""
    boxes: Array
    """Left, top, width and height in pixels, as COCO has them; float32 [n, 4]."""
    labels: tuple[str, ...]
    """Names of the objects' classes."""
    categories: tuple[int, ...]
    """Numbers of the objects' classes from 1, as in COCO files: class `classes[c - 1]`."""
    scores: tuple[float, ...]
    """Confidence of every object, 0 to 1."""
    masks: Array | None
    """Pixels of every object, bool [n, H, W]; None if the model predicts boxes only."""


Prediction = Classes | Masks | DepthMap | Boxes
