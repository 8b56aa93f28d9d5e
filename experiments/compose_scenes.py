"""Composes scenes: cut-outs, or articles of Fashion-MNIST, on photographs, with masks, boxes and labels.

A scene is a function of (seed, split, index). The first object is the largest, is never covered and gives the label; the
others keep at least a third of their area.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, ImageDraw

from experiments.source_images import CLASSES, FASHION, Picture, articles
from repre.data.scenes import SPLITS, Scene
from repre.errors import UserError

Array = np.ndarray
TURN = 25.0
"""Most degrees by which an object is turned."""
SEEN = 1 / 3
"""Least visible share of an object."""
ROUNDS = 8
"""Places that are tried for one object."""


@dataclass(frozen=True, kw_only=True)
class ComposeConfig:
    """What the scenes look like."""

    size: int = 96
    """Side of the square images in pixels."""
    min_objects: int = 1
    """Fewest objects of a scene."""
    max_objects: int = 3
    """Most objects of a scene; fewer where there is no room."""
    first: tuple[float, float] = (0.5, 0.8)
    """Long side of the first object over the side of the image, smallest and largest."""
    others: tuple[float, float] = (0.25, 0.45)
    """The same of the other objects."""
    fold: int = 0
    """Which of the three folds validates; the other two train."""
    seed: int = 0
    """Another seed draws another data set."""

    def __post_init__(self) -> None:
        if not 1 <= self.min_objects <= self.max_objects <= 8:
            raise UserError(f"{self.min_objects} to {self.max_objects} objects; use 1 to 8")
        if self.size < 32 or self.fold not in (0, 1, 2):
            raise UserError(f"size {self.size} must be at least 32, fold {self.fold} be 0, 1 or 2")


class Objects(Protocol):
    """Things that are put into scenes."""

    classes: list[str]

    def draw(self, rng: np.random.Generator) -> tuple[Image.Image, int, str]:
        """An RGBA picture, its class, and the name of the thing."""


class Stamps:
    """Cut-outs of the folds of a split; first the class is drawn, then the cut-out."""

    def __init__(self, folder: Path, pictures: list[Picture]) -> None:
        self.classes = list(CLASSES)
        self.pictures = [
            [(p.source, Image.open(folder / p.file).convert("RGBA")) for p in pictures if p.label == label]
            for label in self.classes
        ]

    def draw(self, rng: np.random.Generator) -> tuple[Image.Image, int, str]:
        label = int(rng.integers(len(self.classes)))
        name, image = self.pictures[label][int(rng.integers(len(self.pictures[label])))]
        factors = rng.uniform(0.85, 1.15, 3)
        colors = np.clip(np.asarray(image)[..., :3] * factors, 0, 255).astype(np.uint8)
        changed = Image.fromarray(colors)
        changed.putalpha(image.getchannel("A"))
        return changed, label, name


class Fashion:
    """Articles of a split of Fashion-MNIST in two random colors, for dark and light; color says nothing of the class."""

    def __init__(self, images: Array, labels: Array, split: str) -> None:
        self.classes = list(FASHION)
        self.images, self.labels, self.split = images, labels, split

    def draw(self, rng: np.random.Generator) -> tuple[Image.Image, int, str]:
        index = int(rng.integers(len(self.images)))
        dark, light = rng.uniform(0, 0.5, 3), rng.uniform(0.4, 1.0, 3)
        gray = self.images[index].astype(np.float32)[..., None] / 255
        colors = (255 * (dark + gray * (light - dark))).astype(np.uint8)
        image = Image.fromarray(colors)
        image.putalpha(Image.fromarray(outline(self.images[index])))
        return image.crop(image.getchannel("A").getbbox()), int(self.labels[index]), f"{self.split}/{index:05}"


def outline(gray: Array) -> Array:
    """Alpha of an article, uint8: all that the black around it, seen from the border, does not reach."""
    bright = Image.fromarray(np.pad(np.where(gray > 12, 255, 0).astype(np.uint8), 1)).copy()  # writable
    ImageDraw.floodfill(bright, (0, 0), 128)
    return np.where(np.asarray(bright)[1:-1, 1:-1] == 128, 0, 255).astype(np.uint8)


class Composer:
    """The scenes of a split, as `repre.data.tools.write.write_sources` takes them."""

    def __init__(self, count: int, objects: Objects, backgrounds: list[Image.Image], config: ComposeConfig, split: str):
        self.count, self.objects, self.backgrounds, self.config, self.split = count, objects, backgrounds, config, split
        self.classes = objects.classes
        self.names: dict[int, str] = {}

    def __len__(self) -> int:
        return self.count

    def scene(self, index: int) -> Scene:
        scene, self.names[index] = self.compose(index)
        return scene

    def firsts(self) -> list[str]:
        """Names of the first objects of all scenes; those that were drawn are not drawn again."""
        return [self.names[i] if i in self.names else self.compose(i)[1] for i in range(self.count)]

    def compose(self, index: int) -> tuple[Scene, str]:
        """The scene and the name of its first object."""
        config, size = self.config, self.config.size
        rng = np.random.Generator(np.random.Philox(key=[config.seed, SPLITS[self.split]], counter=[0, 0, 0, index]))
        image = _background(rng, self.backgrounds, size)
        instances = np.zeros((size, size), np.uint8)
        classes: list[int] = []
        first = ""
        for number in range(int(rng.integers(config.min_objects, config.max_objects + 1))):
            picture, label, name = self.objects.draw(rng)
            picture = _turned(rng, picture, size * rng.uniform(*(config.first if number == 0 else config.others)))
            if _place(rng, image, instances, picture, len(classes) + 1):
                classes.append(label)
                first = first or name
        semantic = np.array([0, *(label + 1 for label in classes)], np.uint8)[instances]
        boxes = np.array([_box(instances == i + 1) for i in range(len(classes))], np.float32)
        pixels = np.clip(image + rng.normal(0, 2.0, image.shape), 0, 255)
        scene = Scene(pixels.astype(np.uint8), semantic, instances, boxes, np.array(classes), classes[0])
        return scene, first


def _background(rng: np.random.Generator, backgrounds: list[Image.Image], size: int) -> Array:
    """A square part of a photograph, mirrored or not, brighter or darker: float32 [S, S, 3]."""
    picture = backgrounds[int(rng.integers(len(backgrounds)))]
    side = min(picture.size) * rng.uniform(0.3, 1.0)
    left, top = ((length - side) * rng.uniform() for length in picture.size)
    part = picture.resize(
        (size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side), reducing_gap=2
    )
    image = np.asarray(part, np.float32)
    return np.array(image[:, ::-1] if rng.integers(2) else image) * np.float32(rng.uniform(0.7, 1.15))


def _turned(rng: np.random.Generator, picture: Image.Image, side: float) -> Image.Image:
    """The cut-out mirrored or not, turned, its long side resized to `side` pixels; colors premultiplied by alpha."""
    if rng.integers(2):
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    factor = side / max(picture.size)
    shape = (max(4, round(picture.width * factor)), max(4, round(picture.height * factor)))
    small = picture.convert("RGBa").resize(shape, Image.Resampling.BICUBIC)
    return small.rotate(rng.uniform(-TURN, TURN), Image.Resampling.BILINEAR, expand=True)


def _place(rng: np.random.Generator, image: Array, instances: Array, picture: Image.Image, number: int) -> bool:
    """Pastes the object behind those that are there, where enough of it is seen; False where there is no such place."""
    pixels = np.asarray(picture, np.float32)
    height, width = pixels.shape[:2]
    size = len(image)
    if height > size or width > size:
        pixels = pixels[: min(height, size), : min(width, size)]
        height, width = pixels.shape[:2]
    alpha = pixels[..., 3:] / 255
    solid = alpha[..., 0] > 0.5
    if not solid.any():
        return False
    for _ in range(ROUNDS):
        top, left = int(rng.integers(size - height + 1)), int(rng.integers(size - width + 1))
        taken = instances[top : top + height, left : left + width]
        seen = solid & (taken == 0)
        if seen.sum() >= max(8, SEEN * solid.sum()):
            break
    else:
        return False
    part = image[top : top + height, left : left + width]
    painted = pixels[..., :3] + part * (1 - alpha)
    part[:] = np.where((taken == 0)[..., None], painted, part)
    taken[seen] = number
    return True


def _box(mask: Array) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1


def composer(
    kind: str, split: str, count: int, *, folder: Path, pictures: list[Picture], packages: Path, config: ComposeConfig
) -> Composer:
    """StampScenes (`stamps`) or FashionScenes (`fashion`) of a split."""
    mine = [p for p in pictures if (p.fold == config.fold) == (split == "val")]
    backgrounds = [Image.open(folder / p.file).convert("RGB") for p in mine if not p.label]
    objects: Objects = Stamps(folder, mine) if kind == "stamps" else Fashion(*articles(packages, split), split)
    return Composer(count, objects, backgrounds, config, split)
