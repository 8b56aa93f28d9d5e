"""What a ``--data`` string means where objects have boxes and masks: images with their instances.

scenes, scenes:COUNT, scenes:COUNT:SIZE   the embedded scenes
coco:IMAGES,ANNOTATIONS.json              a folder and COCO's JSON; a fifth is held out to test, unless other data is named
coco:DIR                                  train2017/ and val2017/ beside annotations/instances_*.json, or
                                          train/ and val/, each with images/ and annotations.json

    H, W  height and width    n  objects of an image
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from repre.data.io.decode import UnreadableImage, in_range, read_image
from repre.data.io.sources import open_source
from repre.data.labels import rle
from repre.data.loading.order import epoch_order
from repre.data.scenes import Scenes
from repre.errors import UserError, near_names

Array = np.ndarray

HELD_OUT = 0.2
"""Share of the images of one JSON that is held out to test; the same ones whatever the seed of an evaluation."""
SLACK = 1.0
"""Pixels by which a box may stand over the edge of its image: rounding of the tools that draw them."""


class Objects(NamedTuple):
    """An image and what is in it.

    Attributes:
        image: [H, W, C] in uint8 (or uint16, float32).
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
    """Images with objects by index. Sources travel to worker processes."""

    spec: str
    """The string that it was opened from."""
    classes: list[str]
    """Names of the classes; label c means classes[c - 1]."""

    def __len__(self) -> int: ...

    def load(self, index: int) -> Objects:
        """Image `index` with its objects; UserError, naming the file, where something is wrong with it."""

    def truth(self, index: int) -> list[dict[str, Any]]:
        """The objects as COCO's annotations, for an evaluator: bbox (x, y, width, height), category_id (the label),
        segmentation, area, iscrowd."""

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of image `index`, without decoding it."""

    def describe(self, index: int) -> str:
        """What to call image `index` in a message or a file name."""

    def fingerprint(self) -> str:
        """A hash of which images and annotations these are."""


def open_boxes(
    spec: str,
    *,
    split: str = "train",
    channels: int = 3,
    whole: bool = False,
    value_range: tuple[float, float] | None = None,
) -> BoxSource:
    """Opens what `spec` names (see the head of this file).

    Args:
        split: train or val.
        whole: nothing is held out of a single JSON, because the test images come from elsewhere.
        value_range: pixel values that stand for 0 and 1, as which the images are given; None leaves them as they are.

    Raises:
        UserError: there is no such thing, or something in the JSON is wrong.
    """
    if split not in ("train", "val"):
        raise UserError(f"boxes have no split {split!r}; there are train and val")
    found = _open(spec, split, channels, whole=whole)
    return found if value_range is None else RangedBoxes(found, value_range)


def _open(spec: str, split: str, channels: int, *, whole: bool) -> BoxSource:
    name, _, rest = spec.partition(":")
    if name == "scenes":
        return SceneBoxes(spec, split)
    if name != "coco":
        if Path(spec).expanduser().exists():
            raise UserError(f"--data {spec}: where are the boxes? Write coco:IMAGES,ANNOTATIONS.json or coco:DIR")
        raise UserError(f"--data {spec}: no data with boxes is called {name!r}{near_names(name, ['scenes', 'coco'])}")
    images, comma, annotations = rest.partition(",")
    if comma:
        found = CocoBoxes(spec, Path(images).expanduser(), Path(annotations).expanduser(), channels=channels)
        return found if whole else found.part(split)
    return CocoBoxes(spec, *_layout(spec, Path(rest).expanduser(), split), channels=channels)


class RangedBoxes:
    """Images of another source, float32 in [0, 1] by the range of values that was declared for them."""

    def __init__(self, source: BoxSource, value_range: tuple[float, float]) -> None:
        self.source, self.value_range = source, value_range
        self.spec, self.classes = source.spec, source.classes

    def __len__(self) -> int:
        return len(self.source)

    def load(self, index: int) -> Objects:
        found = self.source.load(index)
        return found._replace(image=in_range(found.image, self.value_range))

    def truth(self, index: int) -> list[dict[str, Any]]:
        return self.source.truth(index)

    def size(self, index: int) -> tuple[int, int]:
        return self.source.size(index)

    def describe(self, index: int) -> str:
        return self.source.describe(index)

    def fingerprint(self) -> str:
        return f"{self.source.fingerprint()} {self.value_range}"


# ---------------------------------------------------------------------------------------------------------- scenes


class SceneBoxes:
    """The embedded scenes: a quarter as many others, at least 32, to test."""

    def __init__(self, spec: str, split: str) -> None:
        scenes = open_source(spec, channels=3)
        assert isinstance(scenes, Scenes)
        self.scenes = scenes if split == "train" else scenes.held_out(dense=True)
        self.spec, self.classes = spec, list(scenes.classes)

    def __len__(self) -> int:
        return len(self.scenes)

    def load(self, index: int) -> Objects:
        scene = self.scenes.scene(index)
        count = len(scene.classes)
        x, y, width, height = scene.boxes.T
        return Objects(
            image=scene.image,
            boxes=np.stack([x, y, x + width, y + height], axis=1),
            labels=scene.classes + 1,
            masks=scene.instances[None] == np.arange(1, count + 1)[:, None, None],
            crowd=np.zeros(count, bool),
        )

    def truth(self, index: int) -> list[dict[str, Any]]:
        found = self.load(index)
        return [
            {
                "bbox": [float(v) for v in (box[0], box[1], box[2] - box[0], box[3] - box[1])],
                "category_id": int(label),
                "segmentation": rle.encode(mask),
                "area": float(mask.sum()),
                "iscrowd": 0,
            }
            for box, label, mask in zip(found.boxes, found.labels, found.masks)
        ]

    def size(self, index: int) -> tuple[int, int]:
        return self.scenes.config.size, self.scenes.config.size

    def describe(self, index: int) -> str:
        return self.scenes.describe(index)

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.scenes.spec} {self.scenes.split} {self.scenes.config}".encode()).hexdigest()


# ------------------------------------------------------------------------------------------------------------ COCO


class CocoBoxes:
    """A folder of images and COCO's JSON. Categories are sorted by their ids; ids need not be contiguous."""

    def __init__(self, spec: str, folder: Path, annotations: Path, *, channels: int = 3) -> None:
        self.spec, self.folder, self.file, self.channels = spec, folder, annotations, channels
        content = _read_json(annotations)
        if not folder.is_dir():
            raise UserError(f"--data {spec}: there is no folder {folder}")
        categories = sorted(content["categories"], key=lambda row: row["id"])
        self.classes = [str(row["name"]) for row in categories]
        labels = {row["id"]: place + 1 for place, row in enumerate(categories)}
        self.images = sorted(content["images"], key=lambda row: row["id"])
        sizes = {row["id"]: (int(row["height"]), int(row["width"])) for row in self.images}
        if len(sizes) != len(self.images):
            raise UserError(f"{annotations}: two images have one id")
        self.rows: dict[Any, list[dict[str, Any]]] = {row["id"]: [] for row in self.images}
        for row in content["annotations"]:
            self.rows.get(row.get("image_id"), []).append(_checked(row, annotations, labels, sizes))
        missing = [row["file_name"] for row in self.images if not (folder / row["file_name"]).is_file()]
        if missing:
            raise UserError(
                f"{annotations}: {len(missing)} of {len(self.images)} images are not in {folder}, the first is {missing[0]}"
            )
        if not any(self.rows.values()):
            raise UserError(f"{annotations} has no objects at all")

    def part(self, split: str) -> "CocoBoxes":
        """The images that are held out (val), or the others."""
        order = epoch_order(len(self.images), seed=0, epoch=0)
        held = max(1, round(HELD_OUT * len(order)))
        if held == len(order):
            raise UserError(f"{self.file} has one image: none is left to train on; name test data with --test")
        return self.take(sorted(order[:held] if split == "val" else order[held:]))

    def take(self, places: Sequence[int]) -> "CocoBoxes":
        """Some of the images, in the order of `places`."""
        other = object.__new__(CocoBoxes)
        other.__dict__ = self.__dict__ | {"images": [self.images[int(place)] for place in places]}
        return other

    def __len__(self) -> int:
        return len(self.images)

    def load(self, index: int) -> Objects:
        image_row = self.images[index]
        path = self.folder / image_row["file_name"]
        try:
            image = read_image(path, channels=self.channels)
        except UnreadableImage as error:
            raise UserError(f"{path} cannot be read: {error}") from error
        height, width = self.size(index)
        if image.shape[:2] != (height, width):
            raise UserError(f"{path} has {image.shape[:2]} pixels, {self.file} says {(height, width)}")
        rows = self.rows[image_row["id"]]
        boxes = np.array([row["bbox"] for row in rows], np.float32).reshape(-1, 4)
        masks = np.zeros((len(rows), height, width), bool)
        for place, row in enumerate(rows):
            try:
                masks[place] = self._mask(row, height, width)
            except ValueError as error:
                raise UserError(f"{self.file}: annotation {row['id']} of {path.name} has {error}") from error
        return Objects(
            image=image,
            boxes=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1),
            labels=np.array([row["category_id"] for row in rows], np.int64),
            masks=masks,
            crowd=np.array([row["iscrowd"] for row in rows], bool),
        )

    def truth(self, index: int) -> list[dict[str, Any]]:
        return self.rows[self.images[index]["id"]]

    def size(self, index: int) -> tuple[int, int]:
        return int(self.images[index]["height"]), int(self.images[index]["width"])

    def describe(self, index: int) -> str:
        return str(self.images[index]["file_name"])

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.file.read_bytes())
        for row in self.images:
            status = (self.folder / row["file_name"]).stat()
            digest.update(
                f"{row['file_name']} {status.st_size} {status.st_mtime_ns}\n".encode("utf-8", "surrogateescape")
            )
        return digest.hexdigest()

    def _mask(self, row: dict[str, Any], height: int, width: int) -> Array:
        if row.get("segmentation"):
            return rle.decode(row["segmentation"], height=height, width=width)
        mask = np.zeros((height, width), bool)  # boxes alone: the box is the mask
        x, y, w, h = (round(v) for v in row["bbox"])
        mask[y : y + max(1, h), x : x + max(1, w)] = True
        return mask


def _checked(
    row: dict[str, Any], file: Path, labels: dict[Any, int], sizes: dict[Any, tuple[int, int]]
) -> dict[str, Any]:
    """An annotation with its category as a label; UserError where it cannot be true."""
    number = row.get("id", "without an id")
    if row.get("image_id") not in sizes:
        raise UserError(
            f"{file}: annotation {number} belongs to image {row.get('image_id')}, which the file does not list"
        )
    if row.get("category_id") not in labels:
        known = ", ".join(map(str, list(labels)[:8])) + (", ..." if len(labels) > 8 else "")
        raise UserError(f"{file}: annotation {number} has category {row.get('category_id')}; there are {known}")
    height, width = sizes[row["image_id"]]
    try:
        x, y, w, h = (float(v) for v in row["bbox"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: annotation {number} has no box of four numbers") from error
    if not all(map(np.isfinite, (x, y, w, h))) or w <= 0 or h <= 0:
        raise UserError(f"{file}: the box of annotation {number} has no area: {row['bbox']} (x, y, width, height)")
    if x < -SLACK or y < -SLACK or x + w > width + SLACK or y + h > height + SLACK:
        raise UserError(
            f"{file}: the box of annotation {number}, {row['bbox']} (x, y, width, height), lies outside its image of "
            f"{width} x {height} pixels (width x height)"
        )
    x, y, right, bottom = max(0.0, x), max(0.0, y), min(x + w, width), min(y + h, height)
    box = [x, y, right - x, bottom - y]
    return {
        "id": number,
        "bbox": box,
        "category_id": labels[row["category_id"]],
        "segmentation": row.get("segmentation") or [],
        "area": float(row.get("area", box[2] * box[3])),
        "iscrowd": int(row.get("iscrowd", 0)),
    }


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--data: cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"--data: {path} is no JSON: {error}") from error
    needed = {"images": ("id", "file_name", "height", "width"), "annotations": (), "categories": ("id", "name")}
    for name, keys in needed.items():
        rows = content.get(name) if isinstance(content, dict) else None
        if not isinstance(rows, list):
            raise UserError(f"--data: {path} is not COCO's JSON: it has no list {name!r}")
        for row in rows:
            absent = [key for key in keys if not isinstance(row, dict) or key not in row]
            if absent:
                raise UserError(f"--data: {path}: an entry of {name!r} has no {absent[0]!r}")
    if not content["images"] or not content["categories"]:
        raise UserError(f"--data: {path} lists no images or no categories")
    return content


def _layout(spec: str, root: Path, split: str) -> tuple[Path, Path]:
    """Images and annotations of a split below a folder."""
    if not root.is_dir():
        raise UserError(f"--data {spec}: there is no folder {root}")
    if (root / split / "annotations.json").is_file():
        return root / split / "images", root / split / "annotations.json"
    found = sorted((root / "annotations").glob(f"instances_{split}*.json"))
    if found:
        return root / found[-1].stem.removeprefix("instances_"), found[-1]
    raise UserError(
        f"--data {spec}: {root} has neither annotations/instances_{split}*.json nor {split}/annotations.json; "
        "write coco:IMAGES,ANNOTATIONS.json"
    )
