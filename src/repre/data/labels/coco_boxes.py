"""Images with objects in the form of COCO's JSON: every entry is checked. Other formats are converted to this one.

H, W  height and width
"""

import hashlib
import math
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from repre.data.io.decode import read_image
from repre.data.io.image_limits import MAX_PIXELS, UnreadableImage
from repre.data.io.local_files import is_file
from repre.data.labels.coco_json import Annotations, id_order, repeated
from repre.data.labels.coco_masks import check_finite, decode_mask, mask_area
from repre.data.labels.objects import Objects
from repre.data.labels.problems import Problems
from repre.data.labels.splits import fixed_hold_out
from repre.errors import BadImage, UserError

Array = np.ndarray

MAX_CLASSES = 20_000
"""More classes than any data set has; a detector's head would not fit into memory."""
MAX_OBJECTS, MAX_MASK_BYTES = 10_000, 8 * 2**30
"""Most objects of an image, and most bytes of their masks."""
SLACK = 1.0
"""Pixels by which a box may reach beyond its image: rounding of annotation tools."""


class CocoBoxes:
    """A folder of images and their annotations. Classes are the categories sorted by id; ids need not be contiguous.

    Args:
        spec: the string that the source was opened from.
        folder: the images.
        content: the annotations.
        channels: channels of the images.
        skip_unlabeled: leave out images that nobody labeled.
        problems: what happens with mistakes.

    Attributes:
        raw_values: see `FileSource`.

    Raises:
        UserError: an entry is wrong (it is named), or images are missing.
    """

    raw_values = False

    def __init__(
        self,
        spec: str,
        folder: Path,
        content: Annotations,
        *,
        channels: int = 3,
        skip_unlabeled: bool = False,
        problems: Problems | None = None,
    ) -> None:
        problems = problems or Problems()
        self.spec, self.folder, self.file, self.channels = spec, folder, content.file, channels
        self.digest, self.notes, self.unlabeled = content.digest, list(content.notes), content.unlabeled
        if not folder.is_dir():
            raise UserError(f"--data {spec}: there is no folder {folder}")
        categories = _distinct(content)
        self.classes = [str(row["name"]) for row in categories]
        if len(categories) > MAX_CLASSES:
            raise UserError(
                f"{self.file}: {len(categories)} classes, and a detector learns at most {MAX_CLASSES}; keep those that occur"
            )
        if again := repeated(row["id"] for row in categories) or repeated(self.classes):
            raise UserError(f"{self.file}: two classes are called {again[0]!r}; give each its own id and name")
        labels = {row["id"]: label for label, row in enumerate(categories, start=1)}
        self.images = sorted(content.images, key=id_order)
        sizes = {row["id"]: _image_size(row, self.file) for row in self.images}
        if again := repeated(row["id"] for row in self.images):
            raise UserError(f"{self.file}: two images have the id {again[0]!r}")
        if again := repeated(row["file_name"] for row in self.images):
            problems.add(f"{self.file} lists the image {again[0][:120]!r} twice; give all its objects to one entry")
        self.annotations: dict[Any, list[dict[str, Any]]] = {row["id"]: [] for row in self.images}
        for row in content.annotations:
            try:
                annotation = _checked_annotation(row, self.file, labels, sizes)
            except UserError as error:
                problems.add(str(error))
                continue
            self.annotations[row["image_id"]].append(annotation)
        for row in self.images:
            _check_count(len(self.annotations[row["id"]]), row, sizes[row["id"]], self.file)
        missing = [row for row in self.images if not is_file(folder / row["file_name"])]
        if missing:
            problems.add(
                f"{self.file}: {len(missing)} of {len(self.images)} images are not in {folder}, "
                f"the first is {missing[0]['file_name'][:120]!r}"
            )
            lost = {row["id"] for row in missing}
            self.images = [row for row in self.images if row["id"] not in lost]
        if skip_unlabeled:
            everything = self.images
            self.images = [row for row in everything if row["id"] not in self.unlabeled]
            if len(self.images) < len(everything):
                self.notes.append(f"{len(everything) - len(self.images)} images without labels are left out")
        if not any(self.annotations.values()):
            problems.add(f"{self.file} has no objects at all")
        self.has_masks = any(
            row["segmentation"] and not row["iscrowd"] for rows in self.annotations.values() for row in rows
        )

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

    def path(self, index: int) -> Path:
        """The file of image `index`."""
        return self.folder / self.images[index]["file_name"]

    def load(self, index: int) -> Objects:
        path = self.path(index)
        try:
            image = read_image(path, channels=self.channels, raw_values=self.raw_values)
        except UnreadableImage as error:
            raise BadImage(f"{path} cannot be read: {error}") from error
        height, width = self.size(index)
        if image.shape[:2] != (height, width):
            raise BadImage(f"{path} has {image.shape[:2]} pixels, {self.file} says {(height, width)}")
        annotations = self.truth(index)
        boxes = np.array([row["bbox"] for row in annotations], np.float32).reshape(-1, 4)
        masks = np.zeros((len(annotations), height, width), bool)
        for mask, row in zip(masks, annotations):
            mask[:] = self.mask(index, row)
        return Objects(
            image=image,
            boxes=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1),
            labels=np.array([row["category_id"] for row in annotations], np.int64),
            masks=masks,
            crowd=np.array([row["iscrowd"] for row in annotations], bool),
        )

    def mask(self, index: int, annotation: dict[str, Any]) -> Array:
        """The mask of an object of image `index`, bool [H, W]; without a segmentation, its box.

        Raises:
            UserError: the segmentation is damaged.
        """
        height, width = self.size(index)
        if annotation["segmentation"]:
            try:
                return decode_mask(annotation["segmentation"], height=height, width=width)
            except ValueError as error:
                raise BadImage(f"{annotation['where']} of {self.describe(index)} has {error}") from error
        mask = np.zeros((height, width), bool)
        x, y, w, h = (round(value) for value in annotation["bbox"])
        mask[y : y + max(1, h), x : x + max(1, w)] = True
        return mask

    def truth(self, index: int) -> list[dict[str, Any]]:
        return self.annotations[self.images[index]["id"]]

    def size(self, index: int) -> tuple[int, int]:
        return int(self.images[index]["height"]), int(self.images[index]["width"])

    def describe(self, index: int) -> str:
        return str(self.images[index]["file_name"])

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.digest.encode())
        for index, row in enumerate(self.images):
            status = self.path(index).stat()
            digest.update(
                f"{row['file_name']} {status.st_size} {status.st_mtime_ns}\n".encode("utf-8", "surrogateescape")
            )
        return digest.hexdigest()


def _distinct(content: Annotations) -> list[dict[str, Any]]:
    """The categories sorted by id, without those that have the name of another one and no object, as some tools write."""
    used = {row.get("category_id") for row in content.annotations}
    kept: list[dict[str, Any]] = []
    for _, same in groupby(sorted(content.categories, key=itemgetter("name")), key=itemgetter("name")):
        rows = list(same)
        kept += [row for row in rows if row["id"] in used] or rows[-1:]
    return sorted(kept, key=id_order)


def _checked_annotation(
    row: dict[str, Any], file: Path, labels: dict[Any, int], sizes: dict[Any, tuple[int, int]]
) -> dict[str, Any]:
    """An annotation with its label as category, and its box clipped to the image; UserError if it cannot be true."""
    number = row.get("id", "without an id")
    where = row.get("where") or f"{file}: annotation {number}"
    if row.get("image_id") not in sizes:
        raise UserError(f"{where} belongs to image {row.get('image_id')}, which the file does not list")
    if "category_id" not in row:
        raise UserError(
            f"{where} has no category_id; files of captions or panoptic masks have none, use instances_*.json"
        )
    if row["category_id"] not in labels:
        known = ", ".join(map(str, list(labels)[:8])) + (", ..." if len(labels) > 8 else "")
        raise UserError(f"{where} has category {row.get('category_id')}; there are {known}")
    height, width = sizes[row["image_id"]]
    try:
        x, y, w, h = (float(value) for value in row["bbox"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{where} has no box of four numbers") from error
    if not all(map(np.isfinite, (x, y, w, h))) or w <= 0 or h <= 0:
        raise UserError(f"{where} has no area: its box is {row['bbox']} (x, y, width, height)")
    if x < -SLACK or y < -SLACK or x + w > width + SLACK or y + h > height + SLACK:
        raise UserError(
            f"{where}: the box {row['bbox']} (x, y, width, height) lies outside its image of {width} x {height} "
            f"pixels (width x height)"
        )
    x, y, right, bottom = max(0.0, x), max(0.0, y), min(x + w, width), min(y + h, height)
    if right <= x or bottom <= y:
        raise UserError(f"{where}: the box {row['bbox']} (x, y, width, height) lies outside its image")
    segmentation = row.get("segmentation") or []
    try:
        check_finite(segmentation)
    except ValueError as error:
        raise UserError(f"{where} has {error}") from error
    try:
        default_area = (right - x) * (bottom - y)
        if "area" not in row and segmentation:
            default_area = mask_area(segmentation, height=height, width=width)
        area, crowd = float(row.get("area", default_area)), int(row.get("iscrowd", 0))
    except (TypeError, ValueError, OverflowError) as error:
        reason = "an area or iscrowd that is not a number" if "area" in row or not segmentation else str(error)
        raise UserError(f"{where} has {reason}") from error
    if not math.isfinite(area) or area < 0 or crowd not in (0, 1):
        raise UserError(f"{where}: area is {area:g} and iscrowd {crowd}; an area is 0 or more, and iscrowd 0 or 1")
    return {
        "id": number,
        "where": where,
        "bbox": [x, y, right - x, bottom - y],
        "category_id": labels[row["category_id"]],
        "segmentation": segmentation,
        "area": area,
        "iscrowd": crowd,
    }


def _image_size(row: dict[str, Any], file: Path) -> tuple[int, int]:
    size = row["height"], row["width"]
    if not all(isinstance(side, int | float) and side > 0 and side == side // 1 for side in size):
        raise UserError(
            f"{file}: image {row['id']} has no size in whole pixels: {size[0]} x {size[1]} (height x width)"
        )
    if size[0] * size[1] > MAX_PIXELS:
        raise UserError(f"{file}: image {row['id']} has {size[0]} x {size[1]} pixels, more than any supported image")
    return int(size[0]), int(size[1])


def _check_count(count: int, row: dict[str, Any], size: tuple[int, int], file: Path) -> None:
    """Refuses an image whose objects would fill the memory."""
    if count > MAX_OBJECTS or count * size[0] * size[1] > MAX_MASK_BYTES:
        raise UserError(
            f"{file}: image {row['id']} ({row['file_name'][:120]}) has {count} objects in {size[0]} x {size[1]} pixels, "
            f"whose masks take {count * size[0] * size[1] / 2**30:.1f} GiB; at most {MAX_OBJECTS} objects and "
            f"{MAX_MASK_BYTES // 2**30} GiB are supported. Cut the image into tiles"
        )
