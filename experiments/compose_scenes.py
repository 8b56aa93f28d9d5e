"""Composes scenes with masks, boxes and labels: cut-outs, or articles of Fashion-MNIST, pasted on photographs.

A scene is a function of (seed, split, index). The first object is the main one: it is the largest, nothing covers it, and
it gives the scene its label. Of every other object at least a third stays visible.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, ImageDraw

from experiments.source_images import CLASSES, FASHION, SourceImage, articles
from repre.data.scenes import SPLITS, Scene
from repre.errors import UserError

Array = np.ndarray
MAX_ROTATION = 25.0
"""Largest rotation of an object in degrees, in either direction."""
MIN_VISIBLE = 1 / 3
"""Smallest visible share of an object."""
PLACEMENT_TRIALS = 8
"""Random positions that are tried for an object before it is left out."""


@dataclass(frozen=True, kw_only=True)
class ComposeConfig:
    """Appearance of the scenes."""

    size: int = 96
    """Side of the square images in pixels."""
    min_objects: int = 1
    """Fewest objects in a scene."""
    max_objects: int = 3
    """Most objects in a scene; objects without room are left out."""
    first: tuple[float, float] = (0.5, 0.8)
    """Long side of the main object over the side of the image, smallest and largest."""
    others: tuple[float, float] = (0.25, 0.45)
    """Long side of the other objects over the side of the image, smallest and largest."""
    fold: int = 0
    """Fold of the source images to test on; the other two are for training."""
    seed: int = 0
    """Another seed composes another data set."""

    def __post_init__(self) -> None:
        if not 1 <= self.min_objects <= self.max_objects <= 8:
            raise UserError(f"use 1 to 8 objects, at most --max-objects; not {self.min_objects} to {self.max_objects}")
        if self.size < 32:
            raise UserError(f"--size must be at least 32, not {self.size}")
        if self.fold not in (0, 1, 2):
            raise UserError(f"--fold must be 0, 1 or 2, not {self.fold}")


class Objects(Protocol):
    """Objects to paste into scenes."""

    classes: list[str]

    def draw(self, rng: np.random.Generator) -> tuple[Image.Image, int, str]:
        """Returns a random object: RGBA image, index of its class, and its name."""


class Stamps:
    """The cut-outs of a split. `draw` picks the class first, then one of its cut-outs."""

    def __init__(self, folder: Path, images: list[SourceImage]) -> None:
        self.classes = list(CLASSES)
        self.images = [
            [(i.source, Image.open(folder / i.file).convert("RGBA")) for i in images if i.label == label]
            for label in self.classes
        ]

    def draw(self, rng: np.random.Generator) -> tuple[Image.Image, int, str]:
        label = int(rng.integers(len(self.classes)))
        name, image = self.images[label][int(rng.integers(len(self.images[label])))]
        factors = rng.uniform(0.85, 1.15, 3)
        colors = np.clip(np.asarray(image)[..., :3] * factors, 0, 255).astype(np.uint8)
        jittered = Image.fromarray(colors)
        jittered.putalpha(image.getchannel("A"))
        return jittered, label, name


class Fashion:
    """The articles of a split of Fashion-MNIST. Two random colors replace black and white, so color tells no class."""

    def __init__(self, images: Array, labels: Array, split: str) -> None:
        self.classes = list(FASHION)
        self.images, self.labels, self.split = images, labels, split

    def draw(self, rng: np.random.Generator) -> tuple[Image.Image, int, str]:
        index = int(rng.integers(len(self.images)))
        dark, light = rng.uniform(0, 0.5, 3), rng.uniform(0.4, 1.0, 3)
        gray = self.images[index].astype(np.float32)[..., None] / 255
        colors = (255 * (dark + gray * (light - dark))).astype(np.uint8)
        image = Image.fromarray(colors)
        image.putalpha(Image.fromarray(silhouette(self.images[index])))
        return image.crop(image.getchannel("A").getbbox()), int(self.labels[index]), f"{self.split}/{index:05}"


def silhouette(gray: Array) -> Array:
    """Returns the alpha channel of an article, uint8 [H, W]: 0 for the black that is connected to the border, else 255."""
    bright = Image.fromarray(np.pad(np.where(gray > 12, 255, 0).astype(np.uint8), 1)).copy()  # writable
    ImageDraw.floodfill(bright, (0, 0), 128)
    return np.where(np.asarray(bright)[1:-1, 1:-1] == 128, 0, 255).astype(np.uint8)


class Composer:
    """The scenes of one split, as `repre.data.tools.write.write_sources` takes them."""

    def __init__(
        self, count: int, objects: Objects, backgrounds: list[Image.Image], config: ComposeConfig, split: str
    ) -> None:
        self.count, self.objects, self.backgrounds, self.config, self.split = count, objects, backgrounds, config, split
        self.classes = objects.classes
        self._main_objects: dict[int, str] = {}

    def __len__(self) -> int:
        return self.count

    def scene(self, index: int) -> Scene:
        """Composes the scene of an index."""
        scene, self._main_objects[index] = self._compose(index)
        return scene

    def main_objects(self) -> list[str]:
        """Returns the names of the main objects of all scenes; scenes that exist already are not composed again."""
        return [
            self._main_objects[index] if index in self._main_objects else self._compose(index)[1]
            for index in range(self.count)
        ]

    def _compose(self, index: int) -> tuple[Scene, str]:
        """Returns the scene and the name of its main object."""
        config, size = self.config, self.config.size
        rng = np.random.Generator(np.random.Philox(key=[config.seed, SPLITS[self.split]], counter=[0, 0, 0, index]))
        image = _draw_background(rng, self.backgrounds, size)
        instances = np.zeros((size, size), np.uint8)
        classes: list[int] = []
        main_object = ""
        for number in range(int(rng.integers(config.min_objects, config.max_objects + 1))):
            cutout, label, name = self.objects.draw(rng)
            cutout = _transform(rng, cutout, size * rng.uniform(*(config.first if number == 0 else config.others)))
            if _paste(rng, image, instances, cutout, len(classes) + 1):
                classes.append(label)
                main_object = main_object or name
        semantic = np.array([0, *(label + 1 for label in classes)], np.uint8)[instances]
        boxes = np.array([_bounding_box(instances == i + 1) for i in range(len(classes))], np.float32)
        pixels = np.clip(image + rng.normal(0, 2.0, image.shape), 0, 255)
        scene = Scene(pixels.astype(np.uint8), semantic, instances, boxes, np.array(classes), classes[0])
        return scene, main_object


def _draw_background(rng: np.random.Generator, backgrounds: list[Image.Image], size: int) -> Array:
    """Returns a random square crop of a photograph, randomly flipped and brightened: float32 [S, S, 3]."""
    photo = backgrounds[int(rng.integers(len(backgrounds)))]
    side = min(photo.size) * rng.uniform(0.3, 1.0)
    left, top = ((length - side) * rng.uniform() for length in photo.size)
    crop = photo.resize(
        (size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side), reducing_gap=2
    )
    image = np.asarray(crop, np.float32)
    return np.array(image[:, ::-1] if rng.integers(2) else image) * np.float32(rng.uniform(0.7, 1.15))


def _transform(rng: np.random.Generator, cutout: Image.Image, side: float) -> Image.Image:
    """Flips and rotates a cut-out at random and resizes its long side to `side` pixels; colors end premultiplied."""
    if rng.integers(2):
        cutout = cutout.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    factor = side / max(cutout.size)
    shape = (max(4, round(cutout.width * factor)), max(4, round(cutout.height * factor)))
    small = cutout.convert("RGBa").resize(shape, Image.Resampling.BICUBIC)
    return small.rotate(rng.uniform(-MAX_ROTATION, MAX_ROTATION), Image.Resampling.BILINEAR, expand=True)


def _paste(rng: np.random.Generator, image: Array, instances: Array, cutout: Image.Image, number: int) -> bool:
    """Pastes an object behind those already there, at a random position where enough of it is visible.

    Changes `image` and `instances` in place. Returns False, and changes nothing, if no tried position is good.
    """
    pixels = np.asarray(cutout, np.float32)
    height, width = pixels.shape[:2]
    size = len(image)
    if height > size or width > size:
        pixels = pixels[: min(height, size), : min(width, size)]
        height, width = pixels.shape[:2]
    alpha = pixels[..., 3:] / 255
    solid = alpha[..., 0] > 0.5
    if not solid.any():
        return False
    for _ in range(PLACEMENT_TRIALS):
        top, left = int(rng.integers(size - height + 1)), int(rng.integers(size - width + 1))
        window = instances[top : top + height, left : left + width]
        visible = solid & (window == 0)
        if visible.sum() >= max(8, MIN_VISIBLE * solid.sum()):
            break
    else:
        return False
    region = image[top : top + height, left : left + width]
    blended = pixels[..., :3] + region * (1 - alpha)
    region[:] = np.where((window == 0)[..., None], blended, region)
    window[visible] = number
    return True


def _bounding_box(mask: Array) -> tuple[int, int, int, int]:
    """Returns left, top, width and height of the True pixels of a mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1


def composer(
    kind: str, split: str, count: int, *, folder: Path, images: list[SourceImage], packages: Path, config: ComposeConfig
) -> Composer:
    """Returns the scenes of a split of StampScenes ("stamps") or FashionScenes ("fashion")."""
    of_split = [image for image in images if (image.fold == config.fold) == (split == "val")]
    backgrounds = [Image.open(folder / image.file).convert("RGB") for image in of_split if not image.label]
    objects: Objects = Stamps(folder, of_split) if kind == "stamps" else Fashion(*articles(packages, split), split)
    return Composer(count, objects, backgrounds, config, split)
