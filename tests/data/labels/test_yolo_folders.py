"""YOLO's layouts: by a YAML file, by the names of folders, and by two folders."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from repre.data.labels.boxes import open_boxes
from repre.data.labels.objects import HELD_OUT_NOTE
from repre.errors import UserError
from tests.data.labels.label_files import save_image, write_text, write_yolo

BOX = ["1 0.5 0.4 0.25 0.2"]


def names(spec: str, split: str, **settings: bool) -> list[str]:
    source = open_boxes(spec, split=split, **settings)  # type: ignore[arg-type]
    return [Path(source.describe(index)).name for index in range(len(source))]


@pytest.mark.parametrize("layout", ["images/train images/val", "train/images val/images", "train/images valid/images"])
@pytest.mark.parametrize("yaml", ["none", "names", "all", "elsewhere", "dots"])
def test_splits_in_folders(layout: str, yaml: str, tmp_path: Path) -> None:
    train, val = layout.split()
    write_yolo(tmp_path / train, tmp_path / train.replace("images", "labels"), {"a": BOX, "b": None})
    write_yolo(tmp_path / val, tmp_path / val.replace("images", "labels"), {"c": ["0 .5 .5 .1 .1"]})
    if yaml != "none":
        dots = "../" if yaml == "dots" else ""
        path = "path: ../datasets/moved\n" if yaml == "elsewhere" else ""
        splits = f"{path}train: {dots}{train}\nval: {dots}{val}\n" if yaml != "names" else ""
        write_text(tmp_path / "data.yaml", f"{splits}names:\n  0: cat\n  1: dog\n")
    spec = f"yolo:{tmp_path}"
    assert (names(spec, "train"), names(spec, "val")) == (["a.jpg", "b.jpg"], ["c.jpg"])
    train_source, val_source = open_boxes(spec), open_boxes(spec, split="val")
    assert train_source.classes == (["0", "1"] if yaml == "none" else ["cat", "dog"])
    assert val_source.classes == (["0"] if yaml == "none" else ["cat", "dog"])
    assert HELD_OUT_NOTE not in [*train_source.notes, *val_source.notes]
    if yaml != "none":
        assert names(f"yolo:{tmp_path / 'data.yaml'}", "val") == ["c.jpg"]


def test_coco128_has_one_folder_for_both_splits(tmp_path: Path) -> None:
    labels = {f"{number}": BOX for number in range(10)}
    write_yolo(tmp_path / "images/train2017", tmp_path / "labels/train2017", labels)
    for yaml in (None, "path: ../datasets/coco128\ntrain: images/train2017\nval: images/train2017\nnames: {1: dog}\n"):
        if yaml:
            write_text(tmp_path / "coco128.yaml", yaml)
        train, val = (names(f"yolo:{tmp_path}", split) for split in ("train", "val"))
        assert (len(train), len(val)) == (8, 2)
        assert sorted([*train, *val]) == sorted(f"{number}.jpg" for number in range(10))
        source = open_boxes(f"yolo:{tmp_path}")
        assert HELD_OUT_NOTE in source.notes
        assert source.classes == (["0", "dog"] if yaml else ["0", "1"])
        assert len(names(f"yolo:{tmp_path}", "train", whole=True)) == 10


def test_two_folders_and_names(tmp_path: Path) -> None:
    write_yolo(tmp_path / "im" / "sub", tmp_path / "lab" / "sub", {f"{number}": BOX for number in range(5)})
    spec = f"yolo:{tmp_path / 'im'},{tmp_path / 'lab'}"
    assert open_boxes(spec).classes == ["0", "1"]
    assert open_boxes(f"{spec},{write_text(tmp_path / 'n.txt', 'cat' + os.linesep + 'dog')}").classes == ["cat", "dog"]
    write_text(tmp_path / "classes.txt", "sun\nmoon\n")
    assert open_boxes(spec).classes == ["sun", "moon"]
    assert (len(names(spec, "train")), len(names(spec, "val"))) == (4, 1)


def test_a_list_of_images_in_a_text_file(tmp_path: Path) -> None:
    write_yolo(tmp_path / "images", tmp_path / "labels", {"a": BOX, "b": BOX, "c": BOX})
    write_text(tmp_path / "t.txt", f"./images/a.jpg\n{tmp_path}/images/b.jpg\n\n")
    write_text(tmp_path / "v.txt", "./images/c.jpg\n")
    write_text(tmp_path / "data.yaml", "train: [t.txt]\nval: v.txt\nnames: [cat, dog]\n")
    assert (names(f"yolo:{tmp_path}", "train"), names(f"yolo:{tmp_path}", "val")) == (["a.jpg", "b.jpg"], ["c.jpg"])


def test_labels_beside_the_images(tmp_path: Path) -> None:
    write_yolo(tmp_path / "t", tmp_path / "t", {"a": BOX, "b": BOX})
    write_text(tmp_path / "data.yaml", "train: t\nnames: [cat, dog]\n")
    assert open_boxes(f"yolo:{tmp_path}", whole=True).truth(0)[0]["category_id"] == 2


def data_yaml(text: str) -> Callable[[Path], object]:
    return lambda root: write_text(root / "data.yaml", text)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (data_yaml("train: [images/train"), "data.yaml is not YAML"),
        (data_yaml("hello"), "data.yaml has no keys"),
        (data_yaml("train: images/gone\nnames: [a]"), "names 'images/gone' as train, which is neither"),
        (data_yaml("names: cat"), "names in .*data.yaml must be a list"),
        (data_yaml("names: {x: cat}"), "must be a list, or numbers with a name each"),
        (data_yaml("names: []"), "must be a list"),
        (data_yaml("names: [a, b]\nkpt_shape: 3"), "kpt_shape in .* must be two whole numbers"),
        (data_yaml("train: t.txt\nnames: [a]"), "lists 1 images that do not exist, the first is .*none.jpg"),
        (
            lambda root: [write_text(root / f"{n}.yaml", "names: [a]") for n in "ab"],
            r"several YAML files \(a.yaml, b.yaml\)",
        ),
        (lambda root: save_image(root / "images/train/a.png"), "a.jpg and .*a.png would share the labels"),
        (lambda root: (root / "labels/train/a.txt").unlink(), "none of 1 images has a label file; .* would be .*a.txt"),
        (lambda root: write_text(root / "classes.txt", "\n"), "names no classes"),
    ],
)
def test_what_is_wrong_is_named(harm: Callable[[Path], object], words: str, tmp_path: Path) -> None:
    write_yolo(tmp_path / "images/train", tmp_path / "labels/train", {"a": BOX})
    write_text(tmp_path / "t.txt", "none.jpg\n")
    harm(tmp_path)
    with pytest.raises(UserError, match=words):
        open_boxes(f"yolo:{tmp_path}", whole=True)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("yolo:", "write yolo:DIR"),
        ("yolo:a,b,c,d", "write yolo:DIR"),
        ("yolo:{tmp}/imagse", "there is no folder .*did you mean 'images'"),
        ("yolo:{tmp}/images,{tmp}/none", "there is no folder .*none"),
        ("yolo:{tmp}/none.yaml", "cannot read .*none.yaml"),
        ("yolo:{tmp}/images", "no data.yaml with train and val, no images/train"),
        ("yolo:{tmp}/images/train,{tmp}/labels/train,{tmp}/none.txt", "cannot read .*none.txt: No such file"),
        ("yolo:{tmp}/labels,{tmp}/labels", "no images"),
    ],
)
def test_mistakes_in_the_spec_are_named(spec: str, words: str, tmp_path: Path) -> None:
    write_yolo(tmp_path / "images/train", tmp_path / "labels/train", {"a": BOX})
    with pytest.raises(UserError, match=words):
        open_boxes(spec.replace("{tmp}", str(tmp_path)))
