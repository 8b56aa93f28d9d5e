"""Reads YOLO's label files: a text file for every image, a line for every object.

class cx cy w h            a box: center, width and height
class x1 y1 x2 y2 x3 y3    a polygon of three points or more

Coordinates are shares of the image's width and height. An image without a label file has no objects.
"""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repre.data.io.image_limits import UnreadableImage
from repre.data.labels.coco_boxes import SLACK
from repre.data.labels.coco_json import Annotations
from repre.data.labels.coco_masks import polygon_area
from repre.data.labels.image_sizes import image_size
from repre.data.labels.problems import Problems
from repre.utils.os_errors import reason_of
from repre.utils.progress import track

BOX = ("center x", "center y", "width", "height")
"""Names of the four numbers of a box."""
MAX_CLASSES = 100_000
"""Larger numbers of classes are mistakes, and would need names."""


@dataclass(frozen=True)
class YoloFiles:
    """The files of a split.

    Attributes:
        place: the folder or YAML file that names them, for messages.
        images: image files.
        labels: label file of every image, whether it exists or not.
        names: names of the classes; None: they are counted.
        names_file: where the names stand.
        keypoints: numbers of the key points that follow every box; 0 without.
    """

    place: Path
    images: list[Path]
    labels: list[Path]
    names: list[str] | None
    names_file: Path | None
    keypoints: int = 0


def read_yolo(files: YoloFiles, problems: Problems, *, channels: int = 3) -> Annotations:
    """Reads the labels of all images.

    Args:
        files: images and their label files.
        problems: what happens with a line that is wrong, or an image whose size cannot be read.
        channels: channels of the images.
    """
    digest = hashlib.sha256(repr(files.names).encode())
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    unlabeled: set[int] = set()
    both = track(zip(files.images, files.labels), "labels", total=len(files.images), unit="file")
    for number, (path, label_file) in enumerate(both):
        try:
            height, width = image_size(path, channels=channels)
        except UnreadableImage as error:
            problems.add(f"{path} cannot be read: {error}")
            continue
        images.append({"id": number, "file_name": str(path), "height": height, "width": width})
        try:
            data = label_file.read_bytes()
        except FileNotFoundError:
            unlabeled.add(number)
            continue
        except OSError as error:
            problems.add(f"{label_file} cannot be read: {reason_of(error)}")
            continue
        digest.update(f"{path.name}\0".encode("utf-8", "surrogateescape") + data + b"\0")
        for line, text in enumerate(data.decode("utf-8-sig", "replace").splitlines(), start=1):
            if not text.strip():
                continue
            where = f"{label_file} line {line}"
            try:
                row = _object(text.split(), files, height=height, width=width)
            except ValueError as error:
                problems.add(f"{where}: {error}")
                continue
            annotations.append({**row, "id": len(annotations), "image_id": number, "where": where})
    names = files.names
    if names is None:
        names = [str(label) for label in range(1 + max((row["category_id"] for row in annotations), default=0))]
    notes = []
    if unlabeled:
        notes.append(
            f"{len(unlabeled)} of {len(files.images)} images have no label file, which in YOLO means no objects; "
            "--skip-unlabeled leaves them out"
        )
    categories = [{"id": label, "name": name} for label, name in enumerate(names)]
    return Annotations(files.place, images, annotations, categories, digest.hexdigest(), unlabeled, notes)


def _object(words: list[str], files: YoloFiles, *, height: int, width: int) -> dict[str, Any]:
    """The object of a line, as COCO's annotation; ValueError with the reason if the line cannot be true."""
    label = _class_id(words[0], files)
    values = [_number(word) for word in words[1:]]
    if files.keypoints and len(values) == 4 + files.keypoints:
        values = values[:4]
    if len(values) == 4:
        _check_shares(values, list(BOX), [width, height, width, height])
        cx, cy, w, h = values
        box = [(cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height]
        corners = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
        _check_shares(corners, ["left side", "top", "right side", "bottom"], [width, height, width, height])
        return {"category_id": label, "bbox": box}
    if len(values) < 6 or len(values) % 2:
        raise ValueError(
            f"{len(values)} numbers after the class; a box has 4 ({', '.join(BOX)}), a polygon 6 or more, in pairs"
        )
    names = [f"{axis} of point {number}" for number in range(1, len(values) // 2 + 1) for axis in "xy"]
    _check_shares(values, names, [width, height] * (len(values) // 2))
    points = [min(max(value, 0.0), 1.0) * side for value, side in zip(values, [width, height] * len(values))]
    left, top, right, bottom = min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])
    box = [left, top, right - left, bottom - top]
    return {"category_id": label, "bbox": box, "segmentation": [points], "area": polygon_area(points)}


def _class_id(word: str, files: YoloFiles) -> int:
    value = _number(word)
    if value < 0 or value != int(value):
        raise ValueError(f"the class {word} is not a whole number of 0 or more")
    if files.names is not None and value >= len(files.names):
        raise ValueError(
            f"the class {word} has no name: {files.names_file} names {len(files.names)} classes, 0 to {len(files.names) - 1}"
        )
    if value >= MAX_CLASSES:
        raise ValueError(f"the class {word} is above {MAX_CLASSES - 1}")
    return int(value)


def _number(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        raise ValueError(f"{word!r} is not a number") from None
    if not math.isfinite(value):
        raise ValueError(f"{word} is not a finite number")
    return value


def _check_shares(values: list[float], names: list[str], sides: list[int]) -> None:
    """Refuses coordinates outside [0, 1] by more than SLACK pixels of their side."""
    for value, name, side in zip(values, names, sides):
        if not -SLACK <= value * side <= side + SLACK:
            hint = "; these look like pixels" if value > 2 else ""
            raise ValueError(
                f"{name} is {value:g}, outside the image: coordinates are shares of its width and height, 0 to 1{hint}"
            )
