"""The embedded data set: procedural scenes of textured shapes on textured backgrounds, drawn on demand.

The class of an object is its outline. Color, texture, size, position, orientation and background are drawn independently of
it, so colors and raw pixels carry little information, and an encoder has to learn shape. Every scene has semantic and
instance masks, boxes and an image label. It is a function of (seed, split, index).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from repre.errors import UserError
from repre.utils.config_checks import check_fields

Array = np.ndarray

SPLITS = {"train": 0, "val": 1, "test": 2}
MAX_CACHED_BYTES = 200 * 2**20
"""Scenes that a process caches in memory; further ones are drawn again each time."""


@dataclass(frozen=True, kw_only=True)
class ScenesConfig:
    """What the scenes look like."""

    size: int = 64
    """Side of the square images in pixels."""
    min_objects: int = 1
    """Smallest number of objects in a scene."""
    max_objects: int = 2
    """Largest number of objects in a scene. The first is the largest and gives the label."""
    scale: tuple[float, float] = (0.45, 0.75)
    """Diameter of the first object over the side of the image, smallest and largest; the others have 0.3 to 0.5 of it."""
    seed: int = 0
    """Another seed draws another data set."""

    def __post_init__(self) -> None:
        check_fields(self, "scenes")
        if self.size < 16:
            raise UserError(f"scenes: size {self.size} is too small to tell shapes apart; use at least 16")
        if not 1 <= self.min_objects <= self.max_objects <= 8:
            raise UserError(f"scenes: {self.min_objects} to {self.max_objects} objects; use 1 to 8")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise UserError(f"scenes: scale {self.scale}; give (smallest, largest) with 0 < smallest <= largest <= 1")


@dataclass(frozen=True)
class Scene:
    """One scene with all its labels.

    Attributes:
        image: uint8 [H, W, 3].
        semantic: uint8 [H, W]; 0 is background, c + 1 an object of class c.
        instances: uint8 [H, W]; 0 is background, i + 1 the object in row i of boxes and classes.
        boxes: float32 [n, 4]: x, y, width, height of the visible part, in pixels.
        classes: int64 [n].
        label: class of the first object, which is the largest.
    """

    image: Array
    semantic: Array
    instances: Array
    boxes: Array
    classes: Array
    label: int


# ---------------------------------------------------------------------------------------------------------- shapes
# Each is a function of local coordinates (u right, v down, the outline within the unit circle) that is negative inside
# and grows by about 1 per unit of length near the outline.


def _polygon(*corners: tuple[float, float]) -> Callable[[Array, Array], Array]:
    """Signed distance to a polygon given by its corners."""
    points = np.array(corners, dtype=np.float32)

    def distance(u: Array, v: Array) -> Array:
        nearest = np.full(u.shape, np.inf, np.float32)
        inside = np.zeros(u.shape, bool)
        for (ax, ay), (bx, by) in zip(points, np.roll(points, -1, 0)):
            ex, ey, wx, wy = bx - ax, by - ay, u - ax, v - ay
            along = np.clip((wx * ex + wy * ey) / (ex * ex + ey * ey), 0, 1)
            nearest = np.minimum(nearest, (wx - ex * along) ** 2 + (wy - ey * along) ** 2)
            if ay != by:
                inside ^= ((ay > v) != (by > v)) & (wx < ex * wy / ey)
        return np.where(inside, -1, 1) * np.sqrt(nearest)

    return distance


def _star(tips: int, inner: float) -> tuple[tuple[float, float], ...]:
    angles = np.arange(2 * tips) * np.pi / tips - np.pi / 2
    radii = np.where(np.arange(2 * tips) % 2, inner, 0.98)
    return tuple((float(r * np.cos(a)), float(r * np.sin(a))) for r, a in zip(radii, angles))


def _disc(u: Array, v: Array) -> Array:
    return np.hypot(u, v) - 0.85


def _ring(u: Array, v: Array) -> Array:
    return np.abs(np.hypot(u, v) - 0.7) - 0.24


def _crescent(u: Array, v: Array) -> Array:
    u = u - 0.34  # moves its center of area to the origin, so that its position does not depend on its class
    return np.maximum(np.hypot(u, v) - 0.92, 0.72 - np.hypot(u - 0.45, v))


def _heart(u: Array, v: Array) -> Array:
    x, y = np.abs(u) / 0.92, 0.25 - (v + 0.17) / 0.92
    lobes = np.hypot(x - 0.42, y - 0.18) - 0.5
    point = x * 0.78 - (y + 0.92) * 0.62
    return np.minimum(lobes, np.maximum(point, y - 0.18)) * 0.92


def _flower(u: Array, v: Array) -> Array:
    return (np.hypot(u, v) - 0.7 - 0.24 * np.cos(5 * np.arctan2(v, u))) * 0.75


_ARM = 0.3
SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "disc": _disc,
    "ring": _ring,
    "crescent": _crescent,
    "heart": _heart,
    "flower": _flower,
    "square": _polygon((-0.68, -0.68), (0.68, -0.68), (0.68, 0.68), (-0.68, 0.68)),
    "triangle": _polygon((0.0, -1.03), (0.86, 0.52), (-0.86, 0.52)),
    "star": _polygon(*_star(5, 0.42)),
    "cross": _polygon(
        (-_ARM, -0.95), (_ARM, -0.95), (_ARM, -_ARM), (0.95, -_ARM), (0.95, _ARM), (_ARM, _ARM),
        (_ARM, 0.95), (-_ARM, 0.95), (-_ARM, _ARM), (-0.95, _ARM), (-0.95, -_ARM), (-_ARM, -_ARM),
    ),
    "arrow": _polygon((0.0, -0.97), (0.75, -0.1), (0.28, -0.1), (0.28, 0.92), (-0.28, 0.92), (-0.28, -0.1), (-0.75, -0.1)),
}  # fmt: skip
CLASSES = tuple(SHAPES)


# --------------------------------------------------------------------------------------------------------- drawing


def draw_scene(config: ScenesConfig, *, split: str, index: int) -> Scene:
    """Scene `index` of a split; the same on every machine up to the rounding of its mathematics."""
    if split not in SPLITS:
        raise UserError(f"scenes have no split {split!r}; there are {', '.join(SPLITS)}")
    rng = np.random.Generator(np.random.Philox(key=[config.seed, SPLITS[split]], counter=[0, 0, 0, index]))
    size = config.size
    grid = (np.arange(size, dtype=np.float32) + 0.5) / size
    image, level = _background(rng, grid)
    instances = np.zeros((size, size), np.uint8)
    classes: list[int] = []
    diameter = rng.uniform(*config.scale)
    for number in range(int(rng.integers(config.min_objects, config.max_objects + 1))):
        share = diameter if number == 0 else diameter * rng.uniform(0.3, 0.5)
        kind = int(rng.integers(len(CLASSES)))
        mask = _paint(rng, image, grid, SHAPES[CLASSES[kind]], share, level, taken=instances > 0)
        if mask is not None:
            instances[mask] = len(classes) + 1
            classes.append(kind)
    image += rng.normal(0, 0.012, image.shape).astype(np.float32)
    semantic = np.concatenate([[0], np.array(classes) + 1]).astype(np.uint8)[instances]
    return Scene(
        image=(np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8),
        semantic=semantic,
        instances=instances,
        boxes=np.array([_box(instances == i + 1) for i in range(len(classes))], np.float32),
        classes=np.array(classes, np.int64),
        label=classes[0],
    )


def _background(rng: np.random.Generator, grid: Array) -> tuple[Array, float]:
    """A soft two-color texture, float32 [H, W, 3], and its brightness."""
    level = float(rng.uniform(0.2, 0.8))
    first, second = _color(rng, level), _color(rng, level + float(rng.uniform(-0.08, 0.08)))
    mix = 0.5 + 0.5 * _texture(rng, grid[None, :], grid[:, None], cycles=(1.0, 5.0))
    return first + mix[..., None] * (second - first), level


def _paint(
    rng: np.random.Generator,
    image: Array,
    grid: Array,
    shape: Callable[[Array, Array], Array],
    share: float,
    level: float,
    *,
    taken: Array,
) -> Array | None:
    """Paints one object of diameter `share` into the image, with shading and shadow.

    Returns:
        Its mask, or None if there was no room beside the others.
    """
    size, radius, turn = len(grid), share / 2, rng.uniform(-0.8, 0.8)
    own = level + rng.choice([-1, 1]) * rng.uniform(0.28, 0.45)
    own = own if 0.08 < own < 0.92 else 2 * level - own  # the opposite contrast if this one leaves the range
    first, second = _color(rng, own), _color(rng, own + float(rng.uniform(-0.08, 0.08)))
    texture_seed = rng.integers(2**32)
    room = max(0.0, 0.5 - radius * 0.9)
    for _ in range(8):
        x, y = 0.5 + rng.uniform(-room, room), 0.5 + rng.uniform(-room, room)
        cos, sin = np.float32(np.cos(turn) / radius), np.float32(np.sin(turn) / radius)
        dx, dy = grid[None, :] - np.float32(x), grid[:, None] - np.float32(y)
        u, v = dx * cos + dy * sin, dy * cos - dx * sin
        distance = shape(u, v)
        mask = distance < 0
        if mask.any() and not (mask & taken).any():
            break
    else:
        return None
    soft = np.float32(radius * size)
    coverage = np.clip(0.5 - distance * soft, 0, 1)[..., None]
    shadow = np.clip(0.6 - shape(u - 0.06, v - 0.1) * 4, 0, 0.6)[..., None]
    texture = _texture(np.random.Generator(np.random.Philox(texture_seed)), u, v, cycles=(0.5, 2.5))
    paint = first + (0.5 + 0.5 * texture)[..., None] * (second - first)
    light = 1 + 0.12 * np.clip(-0.6 * u - 0.8 * v, -1, 1) - 0.25 * np.clip(1 + distance * soft / 2.5, 0, 1)
    image *= 1 - 0.35 * shadow * ~taken[..., None]
    image += coverage * (paint * light[..., None] - image)
    return mask


def _texture(rng: np.random.Generator, u: Array, v: Array, *, cycles: tuple[float, float]) -> Array:
    """Plain, stripes, checks, dots, waves or clouds in [-1, 1] on coordinates that broadcast to [H, W]."""
    angle, frequency = rng.uniform(0, np.pi), 2 * np.pi * rng.uniform(*cycles)
    phases = rng.uniform(0, 2 * np.pi, 4)
    a = (u * np.cos(angle) + v * np.sin(angle)) * frequency + phases[0]
    b = (v * np.cos(angle) - u * np.sin(angle)) * frequency + phases[1]
    kind = int(rng.integers(6))
    if kind == 0:
        return np.clip(a / frequency, -1, 1)
    if kind == 1:
        return np.clip(3 * np.sin(a), -1, 1) + 0 * b
    if kind == 2:
        return np.clip(6 * np.sin(a) * np.sin(b), -1, 1)
    if kind == 3:
        return np.clip(3 * (np.cos(a) + np.cos(b)) - 2, -1, 1)
    if kind == 4:
        return np.sin(a + 1.5 * np.sin(b))
    return 0.5 * (np.sin(a + phases[2]) * np.cos(1.7 * b) + np.sin(0.6 * b + phases[3] + np.cos(1.3 * a)))


def _color(rng: np.random.Generator, level: float) -> Array:
    """A color of a given brightness (luma), float32 [3]."""
    hue, chroma = rng.uniform(0, 2 * np.pi), rng.uniform(0.08, 0.3)
    tint = np.cos(hue + np.array([0.0, 2.1, 4.2])) * chroma
    tint -= tint @ (0.299, 0.587, 0.114)
    return np.clip(level + tint, 0.02, 0.98).astype(np.float32)


def _box(mask: Array) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1


# ---------------------------------------------------------------------------------------------------------- source


class Scenes:
    """The scenes of a split as a labeled source."""

    channels = 3

    def __init__(self, count: int, *, config: ScenesConfig, split: str = "train") -> None:
        self.count, self.config, self.split = count, config, split
        self.spec = f"scenes:{count}:{config.size}"
        self.classes = list(CLASSES)
        self._cached: dict[int, tuple[Array, int]] = {}  # a small set is drawn once per process

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_cached": {}}

    @property
    def labels(self) -> Array:
        return np.array([self._image_and_label(index)[1] for index in range(self.count)], np.int64)

    def __len__(self) -> int:
        return self.count

    def load(self, index: int) -> Array:
        return self._image_and_label(index)[0]

    def held_out(self, *, dense: bool = False) -> "Scenes":
        """Other scenes of the same kind, to test on.

        Args:
            dense: for masks or boxes, a quarter as many, at least 32; for image labels, half as many, at most 2000.
        """
        count = max(32, self.count // 4) if dense else max(1, min(self.count // 2, 2000))
        return Scenes(count, config=self.config, split="val")

    def scene(self, index: int) -> Scene:
        """Scene `index` with its masks, boxes and label."""
        return draw_scene(self.config, split=self.split, index=index)

    def describe(self, index: int) -> str:
        return f"scenes:{self.split}:{index}"

    def _image_and_label(self, index: int) -> tuple[Array, int]:
        if index not in self._cached:
            scene = self.scene(index)
            if len(self._cached) * scene.image.nbytes > MAX_CACHED_BYTES:
                return scene.image, scene.label
            self._cached[index] = scene.image, scene.label
        return self._cached[index]
