"""Reads COCO's JSON, and finds it in a folder."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repre.errors import UserError
from repre.utils.os_errors import reason_of

ID_KEYS = ("id", "image_id", "category_id")


@dataclass
class Annotations:
    """What annotation files say, in the form of COCO's JSON. Other formats are converted to it.

    Attributes:
        file: the file or folder that they were read from, for messages.
        images: rows with id, file_name, height and width.
        annotations: rows with image_id, category_id, bbox (x, y, width, height) and so on; `where` names the place of a row
            in messages, in place of the file and the id.
        categories: rows with id and name.
        digest: hash of the annotation files.
        unlabeled: ids of the images that nobody labeled.
        notes: what a user should know, a sentence each.
    """

    file: Path
    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    digest: str
    unlabeled: set[Any] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


def read_coco_json(path: Path) -> Annotations:
    """Reads a file and checks its structure.

    Raises:
        UserError: it cannot be read, or it is not COCO's.
    """
    try:
        data = path.read_bytes()
        content = json.loads(data)
    except OSError as error:
        raise UserError(f"--data: cannot read {path}: {reason_of(error)}") from error
    except RecursionError as error:
        raise UserError(f"--data: {path} is not COCO's JSON: its lists are nested too deeply") from error
    except ValueError as error:
        raise UserError(f"--data: {path} is not JSON: {error}") from error
    required = {"images": ("id", "file_name", "height", "width"), "annotations": (), "categories": ("id", "name")}
    for name, keys in required.items():
        rows = content.get(name) if isinstance(content, dict) else None
        if not isinstance(rows, list):
            raise UserError(f"--data: {path} is not COCO's JSON: it has no list {name!r}")
        for number, row in enumerate(rows, start=1):
            entry = f"--data: {path}: entry {number} of {name!r}"
            if not isinstance(row, dict):
                raise UserError(f"{entry} is not an object with keys")
            if name == "annotations" and "segments_info" in row:
                raise UserError(
                    f"--data: {path} holds panoptic annotations (segments_info); use the instances_*.json of the data set"
                )
            if absent := [key for key in keys if key not in row]:
                raise UserError(f"{entry} has no {absent[0]!r}")
            if wrong := [key for key in ID_KEYS if not _is_id(row.get(key, 0))]:
                raise UserError(
                    f"{entry}: its {wrong[0]!r} is neither a whole number nor a text but {str(row[wrong[0]])[:60]}"
                )
            if texts := [key for key in ("file_name", "name") if key in keys and not isinstance(row[key], str)]:
                raise UserError(f"{entry}: its {texts[0]!r} is not text but {str(row[texts[0]])[:60]}")
    if not content["images"] or not content["categories"]:
        raise UserError(f"--data: {path} lists no images or no categories")
    with_annotation = {row.get("image_id") for row in content["annotations"]}
    return Annotations(
        path,
        content["images"],
        content["annotations"],
        content["categories"],
        digest=hashlib.sha256(data).hexdigest(),
        unlabeled={row["id"] for row in content["images"]} - with_annotation,
    )


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def id_order(row: dict[str, Any]) -> tuple[bool, Any]:
    """A key that sorts rows by id, numbers before texts."""
    return isinstance(row["id"], str), row["id"]


def repeated(values: Iterable[Any]) -> list[Any]:
    """The values that occur several times."""
    return [value for value, count in Counter(values).items() if count > 1]


def find_coco(spec: str, root: Path, split: str) -> tuple[Path, Path]:
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
