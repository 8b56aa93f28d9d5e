"""COCO's JSON: reading it, checking every entry, and finding it in a folder.

H, W  height and width
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from repre.data.io.decode import UnreadableImage, read_image
from repre.data.labels.coco_masks import decode_mask
from repre.data.labels.objects import Objects
from repre.data.labels.splits import fixed_hold_out
from repre.errors import UserError

Array = np.ndarray

ID_KEYS = ("id", "image_id", "category_id")
SLACK = 1.0
"""Pixels by which a box may reach beyond its image: rounding of annotation tools."""


class CocoBoxes:
    """A folder of images and COCO's JSON. Classes are the categories sorted by id; ids need not be contiguous.

    Args:
        spec: the string that the source was opened from.
        folder: the images.
        annotations: the JSON.
        channels: channels of the images.

    Raises:
        UserError: the JSON is not COCO's, an entry is wrong (it is named), or images are missing.
    """

    def __init__(self, spec: str, folder: Path, annotations: Path, *, channels: int = 3) -> None:
        self.spec, self.folder, self.file, self.channels = spec, folder, annotations, channels
        content = _read_json(annotations)
        if not folder.is_dir():
            raise UserError(f"--data {spec}: there is no folder {folder}")
        categories = sorted(content["categories"], key=lambda row: row["id"])
        self.classes = [str(row["name"]) for row in categories]
        labels = {row["id"]: label for label, row in enumerate(categories, start=1)}
        self.images = sorted(content["images"], key=lambda row: row["id"])
        sizes = {row["id"]: _image_size(row, annotations) for row in self.images}
        if len(sizes) != len(self.images):
            raise UserError(f"{annotations}: two images have one id")
        self.annotations: dict[Any, list[dict[str, Any]]] = {row["id"]: [] for row in self.images}
        for row in content["annotations"]:
            annotation = _checked_annotation(row, annotations, labels, sizes)
            self.annotations[row["image_id"]].append(annotation)
        missing = [row["file_name"] for row in self.images if not (folder / row["file_name"]).is_file()]
        if missing:
            raise UserError(
                f"{annotations}: {len(missing)} of {len(self.images)} images are not in {folder}, the first is {missing[0]}"
            )
        if not any(self.annotations.values()):
            raise UserError(f"{annotations} has no objects at all")

    def split(self, name: str) -> "CocoBoxes":
        """The images that are held out (val), or the others (train)."""
        if len(self.images) < 2:
            raise UserError(f"{self.file} has one image: none is left to train on; name test data with --test")
        kept, held_out = fixed_hold_out(len(self.images))
        return self.take(held_out if name == "val" else kept)

    def take(self, indices: Sequence[int]) -> "CocoBoxes":
        """The images at `indices`, in that order."""
        subset = object.__new__(CocoBoxes)
        subset.__dict__ = self.__dict__ | {"images": [self.images[int(index)] for index in indices]}
        return subset

    def __len__(self) -> int:
        return len(self.images)

    def load(self, index: int) -> Objects:
        path = self.folder / self.images[index]["file_name"]
        try:
            image = read_image(path, channels=self.channels)
        except UnreadableImage as error:
            raise UserError(f"{path} cannot be read: {error}") from error
        height, width = self.size(index)
        if image.shape[:2] != (height, width):
            raise UserError(f"{path} has {image.shape[:2]} pixels, {self.file} says {(height, width)}")
        annotations = self.truth(index)
        boxes = np.array([row["bbox"] for row in annotations], np.float32).reshape(-1, 4)
        masks = np.zeros((len(annotations), height, width), bool)
        for mask, row in zip(masks, annotations):
            try:
                mask[:] = _mask(row, height, width)
            except ValueError as error:
                raise UserError(f"{self.file}: annotation {row['id']} of {path.name} has {error}") from error
        return Objects(
            image=image,
            boxes=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1),
            labels=np.array([row["category_id"] for row in annotations], np.int64),
            masks=masks,
            crowd=np.array([row["iscrowd"] for row in annotations], bool),
        )

    def truth(self, index: int) -> list[dict[str, Any]]:
        return self.annotations[self.images[index]["id"]]

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


def _mask(annotation: dict[str, Any], height: int, width: int) -> Array:
    """The mask of an object, bool [H, W]; without a segmentation, its box."""
    if annotation["segmentation"]:
        return decode_mask(annotation["segmentation"], height=height, width=width)
    mask = np.zeros((height, width), bool)
    x, y, w, h = (round(value) for value in annotation["bbox"])
    mask[y : y + max(1, h), x : x + max(1, w)] = True
    return mask


# -------------------------------------------------------------------------------------------------- reading the JSON


def _checked_annotation(
    row: dict[str, Any], file: Path, labels: dict[Any, int], sizes: dict[Any, tuple[int, int]]
) -> dict[str, Any]:
    """An annotation with its label as category, and its box clipped to the image; UserError if it cannot be true."""
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
        x, y, w, h = (float(value) for value in row["bbox"])
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
    try:
        area, crowd = float(row.get("area", (right - x) * (bottom - y))), int(row.get("iscrowd", 0))
    except (TypeError, ValueError) as error:
        raise UserError(f"{file}: annotation {number} has an area or iscrowd that is not a number") from error
    return {
        "id": number,
        "bbox": [x, y, right - x, bottom - y],
        "category_id": labels[row["category_id"]],
        "segmentation": row.get("segmentation") or [],
        "area": area,
        "iscrowd": crowd,
    }


def _image_size(row: dict[str, Any], file: Path) -> tuple[int, int]:
    size = row["height"], row["width"]
    if not all(isinstance(side, int | float) and side > 0 and side == side // 1 for side in size):
        raise UserError(
            f"{file}: image {row['id']} has no size in whole pixels: {size[0]} x {size[1]} (height x width)"
        )
    return int(size[0]), int(size[1])


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--data: cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"--data: {path} is not JSON: {error}") from error
    required = {"images": ("id", "file_name", "height", "width"), "annotations": (), "categories": ("id", "name")}
    for name, keys in required.items():
        rows = content.get(name) if isinstance(content, dict) else None
        if not isinstance(rows, list):
            raise UserError(f"--data: {path} is not COCO's JSON: it has no list {name!r}")
        for row in rows:
            if not isinstance(row, dict):
                raise UserError(f"--data: {path}: an entry of {name!r} is not an object with keys")
            if absent := [key for key in keys if key not in row]:
                raise UserError(f"--data: {path}: an entry of {name!r} has no {absent[0]!r}")
            if not all(isinstance(row.get(key, 0), int | str) for key in ID_KEYS):
                raise UserError(f"--data: {path}: an entry of {name!r} has an id that is neither a number nor a text")
    if not content["images"] or not content["categories"]:
        raise UserError(f"--data: {path} lists no images or no categories")
    return content


def find_split(spec: str, root: Path, split: str) -> tuple[Path, Path]:
    """Finds the images and annotations of a split below a folder.

    Raises:
        UserError: the folder has neither COCO's layout nor that of `repre data scenes`.
    """
    if not root.is_dir():
        raise UserError(f"--data {spec}: there is no folder {root}")
    if (root / split / "annotations.json").is_file():
        return root / split / "images", root / split / "annotations.json"
    files = sorted((root / "annotations").glob(f"instances_{split}*.json"))
    if files:
        return root / files[-1].stem.removeprefix("instances_"), files[-1]
    raise UserError(
        f"--data {spec}: {root} has neither annotations/instances_{split}*.json nor {split}/annotations.json; "
        "write coco:IMAGES,ANNOTATIONS.json"
    )
