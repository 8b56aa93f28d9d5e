"""Pascal VOC's XML: pixels counted from 1, lists, difficult objects, and files that are refused."""

from pathlib import Path

import numpy as np
import pytest

from repre.data.labels.boxes import open_boxes
from repre.data.labels.objects import HELD_OUT_NOTE
from repre.data.labels.problems import Problems
from repre.errors import UserError
from tests.data.labels.label_files import HEIGHT, WIDTH, voc_object, write_text, write_voc

CAT = voc_object("cat", (1, 1, 10, 5))
POLYGON = (
    "<polygon>"
    + "".join(
        f"<x{n}>{x}</x{n}><y{n}>{y}</y{n}>" for n, (x, y) in enumerate([(11, 3), (21, 3), (21, 13), (11, 13)], start=1)
    )
    + "</polygon>"
)


def test_boxes_count_from_one_and_hold_their_last_pixel(tmp_path: Path) -> None:
    dog = voc_object("dog", ("11.0", 3, 21, 13), more=POLYGON)
    write_voc(tmp_path, {"a": [CAT, dog], "b": [voc_object("cat", (31, 11, WIDTH, HEIGHT), difficult=1)], "c": []})
    source = open_boxes(f"voc:{tmp_path}", whole=True)
    assert source.classes == ["cat", "dog"]
    found = source.load(0)
    assert found.boxes.tolist() == [[0, 0, 10, 5], [10, 2, 21, 13]]
    expected = np.zeros((2, HEIGHT, WIDTH), bool)
    expected[0, :5, :10], expected[1, 2:12, 10:20] = True, True
    assert (found.masks == expected).all()
    assert found.labels.tolist() == [1, 2]
    assert source.has_masks
    difficult = source.load(1)
    assert difficult.boxes.tolist() == [[30, 10, WIDTH, HEIGHT]]
    assert difficult.crowd.tolist() == [True]
    assert source.notes == ["1 objects marked as difficult are left out of training and metrics"]
    assert len(source.load(2).boxes) == 0


def test_supervision_reads_the_same_boxes(tmp_path: Path) -> None:
    supervision = pytest.importorskip("supervision")
    write_voc(tmp_path, {"a": [CAT, voc_object("dog", (12, 3, 20, 13))], "b": [voc_object("dog", (2, 2, 9, 19))]})
    source = open_boxes(f"voc:{tmp_path}", whole=True)
    theirs = supervision.DetectionDataset.from_pascal_voc(str(tmp_path / "JPEGImages"), str(tmp_path / "Annotations"))
    for index in range(2):
        read = theirs.annotations[source.describe(index)]
        assert np.allclose(read.xyxy, source.load(index).boxes)
        assert [theirs.classes[label] for label in read.class_id] == [
            source.classes[label - 1] for label in source.load(index).labels
        ]


def test_lists_splits_and_classes_of_all_files(tmp_path: Path) -> None:
    root = tmp_path / "VOCdevkit" / "VOC2012"
    write_voc(
        root, {stem: [voc_object(name, (1, 1, 5, 5))] for stem, name in zip("abcd", ("cat", "dog", "cat", "emu"))}
    )
    write_text(root / "ImageSets/Main/train.txt", "a\nb 1\n")
    with pytest.raises(UserError, match=r"has no val.txt or test.txt"):
        open_boxes(f"voc:{tmp_path}", split="val")
    write_text(root / "ImageSets/Main/val.txt", "c\n")
    train, val = (open_boxes(f"voc:{tmp_path}", split=split) for split in ("train", "val"))
    assert [len(train), len(val)] == [2, 1]
    assert train.classes == val.classes == ["cat", "dog", "emu"]
    assert not train.notes
    write_text(root / "classes.txt", "emu\ndog\ncat\n")
    assert open_boxes(f"voc:{root}").truth(0)[0]["category_id"] == 3
    write_text(root / "classes.txt", "emu\ndog\ncats\n")
    with pytest.raises(
        UserError, match=r"a.xml: object 1: the class 'cat' is not in .*classes.txt; did you mean 'cats'"
    ):
        open_boxes(f"voc:{root}")


def test_without_lists_a_fifth_is_held_out(tmp_path: Path) -> None:
    write_voc(tmp_path, {str(number): [CAT] for number in range(10)})
    train, val = (open_boxes(f"voc:{tmp_path}", split=split) for split in ("train", "val"))
    assert [len(train), len(val)] == [8, 2]
    assert HELD_OUT_NOTE in train.notes


def test_images_without_a_file_are_refused_or_skipped(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": [CAT], "b": None})
    with pytest.raises(UserError, match=r"1 of 2 images have no XML file; .*b\.xml.*--skip-unlabeled"):
        open_boxes(f"voc:{tmp_path}", whole=True)
    source = open_boxes(f"voc:{tmp_path}", whole=True, skip_unlabeled=True)
    assert len(source) == 1
    assert source.notes == ["1 images without labels are left out"]


def test_a_size_of_zero_is_read_from_the_image(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": [CAT]}, size="<size><width>0</width><height>0</height></size>")
    assert open_boxes(f"voc:{tmp_path}", whole=True).size(0) == (HEIGHT, WIDTH)


BOMB = '<!DOCTYPE b [<!ENTITY a "aaaa"><!ENTITY c "&a;&a;">]><annotation><object><name>&c;</name></object></annotation>'
OUTSIDE = '<!DOCTYPE b SYSTEM "file:///etc/passwd"><annotation/>'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (BOMB, "declares a document type .*<!DOCTYPE b ...>.*entities"),
        (OUTSIDE, "declares a document type"),
        ("<annotation><object>", "is not XML"),
        ("", "is not XML"),
        ('<?xml version="1.0" encoding="klingon"?><annotation/>', "is not XML"),
        (f"<annotation>{CAT.replace('cat', ' ')}</annotation>", "object 1 has no name"),
        (f"<annotation>{voc_object('cat', (1, 1, 9))}</annotation>", "object 1: ymax is None, not a number"),
        (f"<annotation>{CAT}{voc_object('cat', (1, 'x', 9, 9))}</annotation>", "object 2: ymin is 'x', not a number"),
        (f"<annotation>{voc_object('cat', (1, 'nan', 9, 9))}</annotation>", "object 1: ymin is 'nan', not a number"),
        (f"<annotation>{voc_object('cat', (9, 1, 3, 9))}</annotation>", "object 1 has no area: .* 9, 1, 3, 9"),
        (
            f"<annotation>{voc_object('cat', (9, 1, 60, 9))}</annotation>",
            "object 1: the box .* lies outside its image of 40",
        ),
        (
            f"<annotation>{voc_object('cat', (9, 1, 30, 9), more='<polygon><x>1</x></polygon>')}</annotation>",
            "three points",
        ),
    ],
)
def test_a_wrong_file_is_named_and_collected(content: str, words: str, tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": [CAT], "b": []})
    write_text(tmp_path / "Annotations" / "b.xml", content)
    with pytest.raises(UserError, match=rf"b\.xml.*{words}"):
        open_boxes(f"voc:{tmp_path}", whole=True)
    problems = Problems(collect=True)
    open_boxes(f"voc:{tmp_path}", whole=True, problems=problems)
    assert len(problems.messages) == 1


def test_missing_images_and_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no Annotations"):
        open_boxes(f"voc:{tmp_path}")
    write_voc(tmp_path, {"a": [CAT], "b": [CAT]})
    (tmp_path / "JPEGImages" / "b.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of 2 images do not exist, the first is .*b\.jpg"):
        open_boxes(f"voc:{tmp_path}")
    for path in (tmp_path / "Annotations").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="holds no XML files"):
        open_boxes(f"voc:{tmp_path}")
    write_text(tmp_path / "ImageSets/Main/train.txt", "\n")
    with pytest.raises(UserError, match=r"train\.txt is empty"):
        open_boxes(f"voc:{tmp_path}")
