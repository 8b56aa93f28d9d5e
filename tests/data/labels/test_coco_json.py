"""COCO's JSON from anywhere: what is wrong is named, whatever it is; what programs legitimately write is read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repre.data.labels.boxes import BoxSource, open_boxes
from repre.data.tools.check_labels import check_labels
from repre.errors import UserError
from tests.data.labels.label_files import HEIGHT, WIDTH, save_image

Content = dict[str, Any]
NAN = float("nan")


def content() -> Content:
    """Three images with an object each; the ids of the categories have gaps."""
    size = {"height": HEIGHT, "width": WIDTH}
    box = {"category_id": 1, "bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0}
    return {
        "images": [{"id": number, "file_name": f"{number}.png", **size} for number in range(3)],
        "annotations": [{"id": number, "image_id": number, **box} for number in range(3)],
        "categories": [{"id": 1, "name": "x"}, {"id": 90, "name": "y"}],
    }


def spec_of(root: Path, text: str) -> str:
    for number in range(3):
        save_image(root / "im" / f"{number}.png")
    (root / "a.json").write_text(text)
    return f"coco:{root / 'im'},{root / 'a.json'}"


def loaded(root: Path, change: Callable[[Content], object]) -> BoxSource:
    data = content()
    change(data)
    source = open_boxes(spec_of(root, json.dumps(data)), whole=True)
    for index in range(len(source)):
        source.load(index)
    return source


def annotation(**values: object) -> Callable[[Content], object]:
    return lambda data: data["annotations"][1].update(values)


def image(**values: object) -> Callable[[Content], object]:
    return lambda data: data["images"][1].update(values)


def added(part: str, *rows: dict[str, object]) -> Callable[[Content], object]:
    return lambda data: data[part].extend(rows)


ENTRY = "entry 2 of 'annotations'"
WRONG: dict[str, tuple[Callable[[Content], object], str]] = {
    "a list as id": (annotation(id=[1]), f"{ENTRY}: its 'id' is neither a whole number nor a text but [1]"),
    "a list as image": (annotation(image_id=[1]), f"{ENTRY}: its 'image_id'"),
    "a list as category": (annotation(category_id=[1]), f"{ENTRY}: its 'category_id'"),
    "a truth value as image": (annotation(image_id=True), f"{ENTRY}: its 'image_id'"),
    "a float as category": (annotation(category_id=1.5), f"{ENTRY}: its 'category_id'"),
    "no object with keys": (lambda data: data["images"].insert(1, 5), "entry 2 of 'images' is not an object with keys"),
    "a polygon of NaN": (annotation(segmentation=[[1, 1, NAN, 5, 5, 5]]), "annotation 1 has a polygon with coordinates"),
    "infinity": (annotation(segmentation=[[1, 1, float("inf"), 5, 5, 5]]), "annotation 1 has a polygon with coordinates"),
    "texts": (annotation(segmentation=[["a"] * 6]), "annotation 1 has a polygon with coordinates"),
    "too large for a float": (annotation(segmentation=[[10**400] * 6]), "annotation 1 has a polygon with coordinates"),
    "nested points": (annotation(segmentation=[[[1, 1], [2, 2], [3, 1]]]), "annotation 1 has a polygon with coordinates"),
    "a short polygon": (annotation(segmentation=[[1, 1]]), "annotation 1 of 1.png has a polygon without three points"),
    "a text as outline": (annotation(segmentation="abc"), "neither polygons nor run lengths"),
    "a number as outline": (annotation(segmentation=5), "neither polygons nor run lengths"),
    "damaged runs": (annotation(segmentation={"size": [HEIGHT, WIDTH], "counts": "ZZZZ"}), "damaged run lengths"),
    "huge runs": (annotation(segmentation={"size": [HEIGHT, WIDTH], "counts": [10**30, 1]}), "do not add up to"),
    "a box of NaN": (annotation(bbox=[NAN, 1, 5, 5]), "annotation 1 has no area"),
    "a negative box": (annotation(bbox=[1, 1, -5, 5]), "annotation 1 has no area"),
    "a huge box": (annotation(bbox=[1, 1, 10**400, 5]), "annotation 1 has no box of four numbers"),
    "a text as box": (annotation(bbox="abcd"), "annotation 1 has no box of four numbers"),
    "null as box": (annotation(bbox=None), "annotation 1 has no box of four numbers"),
    "an empty box": (annotation(bbox=[]), "annotation 1 has no box of four numbers"),
    "an area of NaN": (annotation(area=NAN), "annotation 1: area is nan"),
    "a negative area": (annotation(area=-5), "annotation 1: area is -5"),
    "a list as area": (annotation(area=[1]), "annotation 1 has an area or iscrowd that is not a number"),
    "seven crowds": (annotation(iscrowd=7), "iscrowd 7"),
    "an image that is not there": (annotation(image_id=99), "annotation 1 belongs to image 99, which the"),
    "captions": (lambda data: data["annotations"][1].pop("category_id"), "annotation 1 has no category_id; files of"),
    "panoptic": (annotation(segments_info=[]), "holds panoptic annotations (segments_info); use the instances_*.json"),
    "a negative size": (image(height=-3), "image 1 has no size in whole pixels: -3 x 40"),
    "a size of 0": (image(width=0), "image 1 has no size in whole pixels: 20 x 0"),
    "a size of NaN": (image(height=NAN), "image 1 has no size in whole pixels: nan x 40"),
    "a text as size": (image(height="20"), "image 1 has no size in whole pixels"),
    "a huge size": (image(height=10**9, width=10**9), "image 1 has 1000000000 x 1000000000 pixels, more than any"),
    "another size": (image(height=21), "1.png has (20, 40) pixels"),
    "an id twice": (added("images", content()["images"][0]), "two images have the id 0"),
    "an image twice": (added("images", content()["images"][0] | {"id": 77}), "lists the image '0.png' twice"),
    "a lost file": (image(file_name="no.png"), "1 of 3 images are not in"),
    "a list as file": (image(file_name=[1]), "entry 2 of 'images': its 'file_name' is not text but [1]"),
    "null as file": (image(file_name=None), "its 'file_name' is not text but None"),
    "a long name": (image(file_name="x" * 5000), "1 of 3 images are not in"),
    "NUL in a name": (image(file_name="a\0b"), "the first is 'a\\x00b'"),
    "half a character": (image(file_name="\ud800.png"), "the first is '\\ud800.png'"),
    "a list as class": (lambda data: data["categories"][0].update(name=["x"]), "entry 1 of 'categories': its 'name' is no"),
    "a category twice": (added("categories", {"id": 1, "name": "z"}), "two classes are called 1"),
    "a name twice": (
        lambda data: (added("categories", {"id": 2, "name": "x"})(data), annotation(category_id=2)(data)),
        "two classes are called 'x'",
    ),
    "many classes": (
        lambda data: data.update(categories=[{"id": number, "name": str(number)} for number in range(20_001)]),
        "20001 classes, and a detector learns at most 20000",
    ),
    "many boxes": (
        added("annotations", *({**content()["annotations"][0], "id": number} for number in range(10, 10_010))),
        "image 0 (0.png) has 10001 objects",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_the_wrong_entry_is_named(name: str, tmp_path: Path) -> None:
    change, message = WRONG[name]
    with pytest.raises(UserError) as error:
        loaded(tmp_path, change)
    assert message in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000 + "]" * 100_000, "its lists are nested too deeply"),
        ('{"images":' + "[" * 100_000 + "]" * 100_000 + "}", "its lists are nested too deeply"),
        ('{"images":' + "9" * 5000 + "}", "is not JSON: Exceeds the limit"),
        ("null", "is not COCO's JSON: it has no list 'images'"),
        ("", "is not JSON"),
        ("{'images': []}", "is not JSON"),
        ('{"images": [], "annotations": [], "categories": []}', "lists no images or no categories"),
    ],
)
def test_files_that_are_no_annotations(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        open_boxes(spec_of(tmp_path, text))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("change", "classes"),
    [
        (lambda data: None, ["x", "y"]),
        (added("categories", {"id": "q", "name": "z"}), ["x", "y", "z"]),
        (added("categories", {"id": 0, "name": "x"}), ["x", "y"]),
        (annotation(iscrowd=1), ["x", "y"]),
        (annotation(area=None), ["x", "y"]),
        (image(file_name="../im/1.png"), ["x", "y"]),
    ],
    ids=["gaps in ids", "ids of two types", "a group named like its class", "a crowd", "no area", "a path that climbs"],
)
def test_what_programs_write_is_read(change: Callable[[Content], object], classes: list[str], tmp_path: Path) -> None:
    def changed(data: Content) -> None:
        change(data)
        if data["annotations"][1]["area"] is None:
            del data["annotations"][1]["area"]

    source = loaded(tmp_path, changed)
    assert source.classes == classes
    assert [len(source.truth(index)) for index in range(3)] == [1, 1, 1]
    assert not source.has_masks


def test_a_report_names_every_wrong_annotation(tmp_path: Path) -> None:
    data = content()
    for number, row in enumerate(data["annotations"]):
        row |= [{"bbox": [1, 1, -5, 5]}, {"segmentation": [[NAN] * 6]}, {"area": -1}][number]
    (report, *_) = check_labels(spec_of(tmp_path, json.dumps(data)))
    for number in range(3):
        assert any(f"annotation {number}" in problem for problem in report.problems)
