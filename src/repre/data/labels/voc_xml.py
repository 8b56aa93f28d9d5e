"""Reads Pascal VOC's boxes: an XML file for every image in Annotations/, images in JPEGImages/, lists in ImageSets/Main/.

Pixels are counted from 1, and the last one is part of the box: left = xmin - 1, right = xmax. Objects marked as difficult
become crowds: they are neither learned nor counted, as in VOC's own metric.
"""

import hashlib
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

from repre.data.io.image_limits import UnreadableImage
from repre.data.labels.coco_json import Annotations
from repre.data.labels.coco_masks import polygon_area
from repre.data.labels.image_sizes import image_size
from repre.data.labels.problems import Problems
from repre.data.labels.text_lines import read_lines
from repre.data.labels.visible_files import files_below
from repre.errors import UserError, near_names
from repre.utils.progress import track

LISTS = {"train": ("train",), "val": ("val", "test")}
"""Names of the lists of a split in ImageSets/Main, the first that exists."""


def find_voc(root: Path, split: str) -> list[str] | None:
    """The names of a split's images by its list; None if there are no lists, so that a share has to be held out."""
    folder = root / "ImageSets" / "Main"
    files = {
        name: next((folder / f"{stem}.txt" for stem in stems if (folder / f"{stem}.txt").is_file()), None)
        for name, stems in LISTS.items()
    }
    file = files[split]
    if file is None:
        if any(files.values()):
            raise UserError(f"--data: {folder} has no {' or '.join(f'{stem}.txt' for stem in LISTS[split])}")
        return None
    stems = [line.split()[0] for line in read_lines(file)]
    if not stems:
        raise UserError(f"--data: {file} is empty")
    return stems


def read_voc(
    root: Path, stems: list[str] | None, problems: Problems, *, channels: int = 3, skip_unlabeled: bool = False
) -> Annotations:
    """Reads the objects of images.

    Args:
        root: folder with Annotations and JPEGImages.
        stems: names of the images without their ending; None for all.
        problems: what happens with mistakes.
        channels: channels of the images.
        skip_unlabeled: whether an image without an XML file is allowed.

    Raises:
        UserError: there are no annotations.
    """
    images = {
        path.relative_to(root / "JPEGImages").with_suffix("").as_posix(): path
        for path in files_below(root / "JPEGImages")
    }
    files = {
        path.relative_to(root / "Annotations").with_suffix("").as_posix(): path
        for path in files_below(root / "Annotations", (".xml",))
    }
    if not files:
        raise UserError(f"--data: {root / 'Annotations'} holds no XML files")
    chosen = sorted(images.keys() | files.keys()) if stems is None else list(dict.fromkeys(stems))
    lost = [stem for stem in chosen if stem not in images]
    if lost:
        count = f"{len(lost)} of {len(chosen)} images"
        problems.add(f"--data: {count} do not exist, the first is {root / 'JPEGImages' / lost[0]}.jpg")
    without = [stem for stem in chosen if stem in images and stem not in files]
    if without and not skip_unlabeled:
        expected = root / "Annotations" / f"{without[0]}.xml"
        problems.add(
            f"--data: {len(without)} of {len(chosen)} images have no XML file; that of {images[without[0]]} would be "
            f"{expected}. Add the files, or leave such images out with --skip-unlabeled"
        )
    return _read(root, chosen, images, files, problems, channels)


def _read(
    root: Path,
    chosen: list[str],
    images: dict[str, Path],
    files: dict[str, Path],
    problems: Problems,
    channels: int,
) -> Annotations:
    digest = hashlib.sha256()
    rows: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    unlabeled: set[int] = set()
    names: set[str] = set()
    numbers = {stem: number for number, stem in enumerate(chosen) if stem in images}
    # the classes are those of all files, so that train and val have the same
    for stem, file in track(files.items(), "labels", total=len(files), unit="file"):
        try:
            data = file.read_bytes()
            tree = _parse(data)
            found = [_object(number, element) for number, element in enumerate(tree.iterfind("object"), start=1)]
            names |= {row["name"] for row in found}
            if stem in numbers:
                rows.append(_image(numbers[stem], images[stem], tree, channels))
        except (OSError, ValueError, UnreadableImage) as error:
            problems.add(f"{file}: {error}")
            continue
        if stem in numbers:
            digest.update(f"{stem}\0".encode("utf-8", "surrogateescape") + data)
            objects += [{**row, "image_id": numbers[stem], "where": f"{file}: object {row['id']}"} for row in found]
    for stem, number in numbers.items():
        if stem not in files:
            try:
                rows.append(_image(number, images[stem], None, channels))
                unlabeled.add(number)
            except UnreadableImage as error:
                problems.add(f"{images[stem]} cannot be read: {error}")
    classes = _classes(root, sorted(names), problems)
    digest.update(repr(classes).encode())
    kept = []
    for row in objects:
        if row["name"] in classes:
            kept.append({**row, "category_id": classes.index(row["name"])})
        else:
            near = near_names(row["name"], classes)
            problems.add(f"{row['where']}: the class {row['name']!r} is not in {root / 'classes.txt'}{near}")
    difficult = sum(row["iscrowd"] for row in kept)
    notes = [f"{difficult} objects marked as difficult are left out of training and metrics"] if difficult else []
    categories = [{"id": number, "name": name} for number, name in enumerate(classes)]
    return Annotations(root / "Annotations", rows, kept, categories, digest.hexdigest(), unlabeled, notes)


def _classes(root: Path, found: list[str], problems: Problems) -> list[str]:
    """Names of the classes: the lines of classes.txt, or those that occur, sorted."""
    file = root / "classes.txt"
    if not file.is_file():
        if not found:
            problems.add(f"--data: the files in {root / 'Annotations'} have no objects at all")
        return found or ["object"]
    return read_lines(file)


def _parse(data: bytes) -> ElementTree.Element:
    """Parses XML. A document type is refused before anything is expanded: entities can fill the memory or read files."""

    def refuse(name: str, *_: Any) -> None:
        raise ValueError(
            f"it declares a document type (<!DOCTYPE {name} ...>), which may hide entities; remove that line"
        )

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(data, True)
        return ElementTree.fromstring(data)
    except (expat.ExpatError, ElementTree.ParseError, LookupError) as error:
        raise ValueError(f"it is not XML: {error}") from error


def _image(number: int, path: Path, tree: ElementTree.Element | None, channels: int) -> dict[str, Any]:
    """The row of an image, with the size that its XML states, or that of its file."""
    words = [tree.findtext(f"size/{side}") or "" for side in ("height", "width")] if tree is not None else []
    if len(words) == 2 and all(word.strip().isdigit() and int(word) > 0 for word in words):
        height, width = (int(word) for word in words)
    else:
        height, width = image_size(path, channels=channels)
    return {"id": number, "file_name": str(path), "height": height, "width": width}


def _object(number: int, element: ElementTree.Element) -> dict[str, Any]:
    """An <object> as COCO's annotation, with the name of its class; ValueError with the reason if something is missing."""
    name = (element.findtext("name") or "").strip()
    if not name:
        raise ValueError(f"object {number} has no name")
    corners = [_number(element.findtext(f"bndbox/{key}"), key, number) for key in ("xmin", "ymin", "xmax", "ymax")]
    left, top, right, bottom = corners[0] - 1, corners[1] - 1, corners[2], corners[3]
    if right <= left or bottom <= top:
        raise ValueError(
            f"object {number} has no area: xmin, ymin, xmax, ymax are {', '.join(f'{c:g}' for c in corners)}"
        )
    polygons = [
        [_number(point.text, point.tag, number) - 1 for point in polygon] for polygon in element.iterfind("polygon")
    ]
    if any(len(polygon) < 6 or len(polygon) % 2 for polygon in polygons):
        raise ValueError(f"object {number} has a polygon without three points (x1, y1, x2, y2, x3, y3, ...)")
    box_area = (right - left) * (bottom - top)
    return {
        "id": number,
        "name": name,
        "bbox": [left, top, right - left, bottom - top],
        "segmentation": polygons,
        "area": sum(map(polygon_area, polygons)) if polygons else box_area,
        "iscrowd": int((element.findtext("difficult") or "0").strip() == "1"),
    }


def _number(text: str | None, key: str, number: int) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"object {number}: {key} is {text!r}, not a number")
    return value
