"""Images with objects: what COCO's JSON says arrives, and what cannot be true is named."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from repre.data.labels.boxes import open_boxes
from repre.data.labels.coco_masks import decode_mask, encode_mask
from repre.errors import UserError
from tests.data.labels.label_files import voc_object, write_text

COUNT, HEIGHT, WIDTH = 10, 24, 32


@pytest.fixture
def content() -> dict[str, Any]:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[4:12, 6:20] = True
    return {
        "images": [{"id": 3 * i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in range(COUNT)],
        "annotations": [
            {"id": i, "image_id": 3 * i, "category_id": 7 if i % 2 else 2, "bbox": [6, 4, 14, 8], "iscrowd": int(i == 4),
             "area": 112, "segmentation": encode_mask(mask)}
            for i in range(COUNT)
        ],
        "categories": [{"id": 7, "name": "dog"}, {"id": 2, "name": "cat"}],
    }  # fmt: skip


@pytest.fixture
def write(tmp_path: Path) -> Callable[[dict[str, Any]], str]:
    for i in range(COUNT):
        Image.new("RGB", (WIDTH, HEIGHT), (i, 0, 0)).save(tmp_path / f"{i}.png")

    def call(content: dict[str, Any]) -> str:
        (tmp_path / "a.json").write_text(json.dumps(content))
        return f"coco:{tmp_path},{tmp_path / 'a.json'}"

    return call


def test_objects_arrive(content: dict[str, Any], write: Callable[..., str]) -> None:
    source = open_boxes(write(content), whole=True)
    assert source.classes == ["cat", "dog"]
    found = source.load(1)
    assert found.boxes.tolist() == [[6, 4, 20, 12]]
    assert found.labels.tolist() == [2]
    assert found.masks.shape == (1, HEIGHT, WIDTH)
    assert found.masks.sum() == 8 * 14
    assert source.load(4).crowd.tolist() == [True]
    assert source.truth(1)[0]["category_id"] == 2
    assert source.size(0) == (HEIGHT, WIDTH)


def test_a_declared_range_of_pixels(content: dict[str, Any], write: Callable[..., str]) -> None:
    spec = write(content)
    plain, ranged = open_boxes(spec, whole=True), open_boxes(spec, whole=True, value_range=(0.0, 8.0))
    found = ranged.load(2)
    assert found.image.dtype == np.float32
    assert np.allclose(found.image, plain.load(2).image / 8)
    assert (found.boxes == plain.load(2).boxes).all()
    assert (len(ranged), ranged.classes, ranged.size(2)) == (len(plain), plain.classes, plain.size(2))
    assert (ranged.describe(2), ranged.truth(2)) == (plain.describe(2), plain.truth(2))
    assert plain.fingerprint() != ranged.fingerprint()


def test_a_fifth_is_held_out(content: dict[str, Any], write: Callable[..., str]) -> None:
    spec = write(content)
    train, val = open_boxes(spec, split="train"), open_boxes(spec, split="val")
    names = [{source.describe(i) for i in range(len(source))} for source in (train, val)]
    assert [len(some) for some in names] == [8, 2]
    assert not names[0] & names[1]
    assert train.fingerprint() != val.fingerprint()


@pytest.mark.parametrize("layout", ["coco", "split"])
def test_folders(content: dict[str, Any], tmp_path: Path, layout: str) -> None:
    for split in ("train", "val"):
        folder = tmp_path / (f"{split}2017" if layout == "coco" else f"{split}/images")
        folder.mkdir(parents=True)
        for i in range(COUNT):
            Image.new("RGB", (WIDTH, HEIGHT)).save(folder / f"{i}.png")
        name = f"annotations/instances_{split}2017.json" if layout == "coco" else f"{split}/annotations.json"
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    assert len(open_boxes(f"coco:{tmp_path}", split="val")) == COUNT


def test_boxes_without_masks_are_their_own_masks(content: dict[str, Any], write: Callable[..., str]) -> None:
    del content["annotations"][0]["segmentation"]
    found = open_boxes(write(content), whole=True).load(0)
    assert found.masks[0, 4:12, 6:20].all()
    assert found.masks.sum() == 8 * 14


def test_crowds_and_areas(content: dict[str, Any], write: Callable[..., str]) -> None:
    """Plain and compressed run lengths are the same mask; without an area its pixels are counted."""
    mask = decode_mask(content["annotations"][4]["segmentation"], height=HEIGHT, width=WIDTH)
    mask[4, 6] = False
    edges = np.flatnonzero(np.diff(mask.T.ravel().astype(int))) + 1
    counts = np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()
    content["annotations"][4] |= {"segmentation": {"size": [HEIGHT, WIDTH], "counts": counts}}
    content["annotations"][5] |= {"segmentation": encode_mask(mask)}
    del content["annotations"][4]["area"], content["annotations"][5]["area"]
    source = open_boxes(write(content), whole=True)
    for index, crowd in ((4, True), (5, False)):
        found = source.load(index)
        assert (found.masks[0] == mask).all()
        assert found.crowd.tolist() == [crowd]
        assert source.truth(index)[0]["area"] == mask.sum() == 111


def test_only_crowds_have_outlines(content: dict[str, Any], write: Callable[..., str]) -> None:
    assert open_boxes(write(content), whole=True).has_masks
    for row in content["annotations"]:
        if not row["iscrowd"]:
            del row["segmentation"]
    assert not open_boxes(write(content), whole=True).has_masks


def test_images_without_annotations_can_be_left_out(content: dict[str, Any], write: Callable[..., str]) -> None:
    del content["annotations"][3]
    assert len(open_boxes(write(content), whole=True)) == COUNT
    source = open_boxes(write(content), whole=True, skip_unlabeled=True)
    assert len(source) == COUNT - 1
    assert source.notes == ["1 images without labels are left out"]


def test_scenes_have_their_masks_in_their_boxes() -> None:
    source = open_boxes("scenes:8:48", split="train")
    for index in range(8):
        found = source.load(index)
        assert len(found.boxes) == len(found.labels) == len(found.masks) >= 1
        for (left, top, right, bottom), mask, row in zip(found.boxes, found.masks, source.truth(index)):
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert (left, top, right, bottom) == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            assert (decode_mask(row["segmentation"], height=48, width=48) == mask).all()
    assert len(open_boxes("scenes:400:48", split="val")) == 100
    first = open_boxes("scenes:8:48", split="val").load(0).image
    assert not np.array_equal(first, source.load(0).image)


Change = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["annotations"][2].update(image_id=99), "annotation 2 belongs to image 99"),
        (lambda c: c["annotations"][2].update(category_id=1), r"annotation 2 has category 1; there are 2, 7"),
        (lambda c: c["annotations"][2].update(bbox=[30, 4, 14, 8]), "annotation 2.*outside its image of 32 x 24"),
        (lambda c: c["annotations"][2].update(bbox=[6, 4, 0, 8]), "annotation 2 has no area"),
        (lambda c: c["annotations"][2].update(bbox=[6, 4, 8]), "annotation 2 has no box of four"),
        (lambda c: c["annotations"][2].pop("bbox"), "annotation 2 has no box"),
        (lambda c: c["images"][0].update(file_name="gone.png"), "the first is .gone.png"),
        (lambda c: c["images"][0].pop("height"), "'images' has no 'height'"),
        (lambda c: c["images"][0].update(id=3), "two images have the id 3"),
        (lambda c: c.pop("categories"), "no list 'categories'"),
        (lambda c: c["annotations"].clear(), "no objects at all"),
        (lambda c: c["annotations"][2].update(segments_info=[]), "panoptic annotations"),
        (lambda c: c["images"].clear(), "belongs to image|lists no images"),
    ],
)
def test_what_cannot_be_true_is_named(
    content: dict[str, Any], write: Callable[..., str], change: Change, words: str
) -> None:
    changed = copy.deepcopy(content)
    change(changed)
    with pytest.raises(UserError, match=words):
        open_boxes(write(changed), whole=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["annotations"][0].update(segmentation={"size": [5, 5], "counts": [25]}), "annotation 0 of 0.png"),
        (lambda c: c["images"][0].update(height=12) or c["annotations"].pop(0), "0.png has .*24, 32.* says .*12, 32"),
    ],
)
def test_what_only_the_image_tells_is_named(
    content: dict[str, Any], write: Callable[..., str], change: Change, words: str
) -> None:
    change(content)
    source = open_boxes(write(content), whole=True)
    with pytest.raises(UserError, match=words):
        source.load(0)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("{tmp}", "name data with boxes"),
        ("cocoo:{tmp}", "did you mean 'coco'"),
        ("coco:{tmp}", "neither annotations/instances_train"),
        ("coco:{tmp}/none", "there is no folder"),
        ("voc:", "no data with boxes is called 'voc'"),
        ("coco:{tmp},{tmp}/none.json", "cannot read"),
        ("coco:{tmp},{tmp}/text.json", "is not JSON"),
        ("coco:{tmp},{tmp}/list.json", "is not COCO's JSON"),
    ],
)
def test_mistakes_in_the_spec_are_named(spec: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "text.json").write_text("hello")
    (tmp_path / "list.json").write_text("[1, 2]")
    with pytest.raises(UserError, match=words):
        open_boxes(spec.replace("{tmp}", str(tmp_path)))


@pytest.mark.parametrize("name", ["yolo", "voc"])
def test_images_of_many_channels_in_other_formats(name: str, tmp_path: Path) -> None:
    """Their size is not in a header that Pillow reads."""
    images = tmp_path / ("images" if name == "yolo" else "JPEGImages")
    images.mkdir()
    for number in range(2):
        np.save(images / f"{number}.npy", np.zeros((5, HEIGHT, WIDTH), np.uint8))
        if name == "yolo":
            write_text(tmp_path / "labels" / f"{number}.txt", "0 0.5 0.5 0.5 0.5")
        else:
            element = f"<annotation>{voc_object('cat', (9, 7, 24, 18))}</annotation>"
            write_text(tmp_path / "Annotations" / f"{number}.xml", element)
    source = open_boxes(f"{name}:{tmp_path}", channels=5, whole=True)
    assert source.load(0).image.shape == (HEIGHT, WIDTH, 5)
    assert source.load(0).boxes.tolist() == [[8, 6, 24, 18]]
