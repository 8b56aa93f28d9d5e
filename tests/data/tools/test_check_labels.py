"""What a report of labels says: counts on data made by hand, and every mistake at once."""

import json
from pathlib import Path

import numpy as np
import pytest

from repre.data.labels.masks import MaskOptions
from repre.data.tools.check_labels import LabelReport, check_labels
from repre.errors import UserError
from tests.data.labels.label_files import HEIGHT, WIDTH, save_image, voc_object, write_text, write_voc, write_yolo


def row(report: LabelReport, name: str) -> list[str]:
    """The cells of a class in the table."""
    start = next(index for index, line in enumerate(report.facts) if line.startswith("class "))
    return next(line.split() for line in report.facts[start:] if line.split()[:1] == [name])


def mask(*values: int, dtype: type = np.uint8) -> np.ndarray:
    """Equal stripes of values."""
    return np.repeat(np.array(values, dtype), HEIGHT // len(values))[:, None].repeat(WIDTH, 1)


def pairs(root: Path, *masks: np.ndarray | None) -> str:
    for number, values in enumerate(masks):
        save_image(root / "im" / f"{number}.jpg")
        (root / "m").mkdir(exist_ok=True)
        if values is not None:
            save_image(root / "m" / f"{number}.png", values)
    return f"pairs:{root / 'im'},{root / 'm'}"


@pytest.mark.parametrize("workers", [0, 1])
def test_masks_are_counted(workers: int, tmp_path: Path) -> None:
    spec = pairs(tmp_path, mask(0, 0, 0, 1), mask(0, 255), mask(0, 4))
    (report,) = check_labels(spec, workers=workers)
    assert report.title == "train: masks of 3 images"
    assert not report.problems
    assert row(report, "0") == ["0", "58.33%", "3"]
    assert row(report, "1") == ["1", "8.33%", "1"]
    assert row(report, "2") == ["2", "0.00%", "0"]
    assert row(report, "4") == ["4", "16.67%", "1"]
    text = report.lines()
    assert "  ignored: 16.67% of the pixels" in text
    assert f"  short side: 20 to 20 pixels; most: {HEIGHT} x {WIDTH} (3)" in text
    assert "  classes that never occur (2 of 5):" in text
    assert "  imbalance: 0 has 7.0 times as many pixels as 1" in text
    assert text[-1] == "  no problems"


def test_every_mistake_in_masks_is_collected(tmp_path: Path) -> None:
    spec = pairs(tmp_path, mask(0, 1), mask(0, 7), mask(0, 9), mask(1), None, mask(1), mask(1))
    write_text(tmp_path / "classes.txt", "a\nb")
    save_image(tmp_path / "m" / "3.png", mask(1)[:5])
    (tmp_path / "m" / "5.png").write_bytes(b"rubbish")
    save_image(tmp_path / "m" / "6.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    (report,) = check_labels(spec)
    assert len(report.problems) == 6
    text = "\n".join(report.lines())
    for words in (
        "images without a mask (1):",
        "4.jpg",
        "--skip-unlabeled leaves them out",
        "1.png holds the label 7 (first at row 10, column 0), but there are 2 classes",
        "2.png holds the label 9",
        "3.png has 5 x 40 pixels, but its image",
        "5.png cannot be read",
        "6.png is a picture with colors",
        "values without a class:\n    7 in 1 images\n    9 in 1 images",
    ):
        assert words in text
    assert row(report, "b")[2] == "2"
    assert len(check_labels(spec, options=MaskOptions(skip_unlabeled=True))[0].problems) == 5


def test_wide_numbers_with_gaps_and_masks_without_classes_are_reported(tmp_path: Path) -> None:
    (report,) = check_labels(pairs(tmp_path / "wide", mask(0, 1000, dtype=np.uint16), mask(65000, dtype=np.uint16)))
    assert ["hold 3 labels, 0, 1000, 65000" in problem for problem in report.problems] == [True]
    assert row(report, "65000") == ["65000", "50.00%", "1"]
    (report,) = check_labels(pairs(tmp_path / "binary", mask(0, 255), mask(0)))
    assert ["--binary makes it the class 1" in problem for problem in report.problems] == [True]
    (report,) = check_labels(pairs(tmp_path / "one", mask(0, 1)), options=MaskOptions(ignore_label=(0,)))
    assert report.problems == ["1 classes are left of 2; there have to be 2 to 255"]
    assert row(report, "1") == ["1", "50.00%", "1"]
    (report,) = check_labels(pairs(tmp_path / "bad", mask(0, 1), np.zeros((HEIGHT, WIDTH, 3), np.uint8)))
    assert ["1.png is a picture with colors" in problem for problem in report.problems] == [True]


def test_colors_of_no_class_are_listed(tmp_path: Path) -> None:
    colors = np.array([[0, 0, 0], [9, 9, 9], [1, 2, 3]], np.uint8)
    spec = pairs(tmp_path, colors[mask(0, 1)], colors[mask(1, 2)])
    write_text(tmp_path / "colors.txt", "a: 0,0,0\nb: 9,9,9")
    (report,) = check_labels(spec)
    assert "  1,2,3 in 1 images" in report.facts
    assert ["holds the color 1,2,3" in problem for problem in report.problems] == [True]


def test_boxes_are_counted(tmp_path: Path) -> None:
    lines = {"a": ["0 .5 .5 .5 .5", "0 .5 .5 .1 .2"], "b": ["1 .5 .5 .1 .1"], "c": [], "d": None}
    write_yolo(tmp_path / "im", tmp_path / "lab", lines)
    write_text(tmp_path / "classes.txt", "x\ny\nz")
    spec = f"yolo:{tmp_path / 'im'},{tmp_path / 'lab'}"
    (report,) = check_labels(spec)
    assert report.title == "train: 3 objects in 4 images, boxes only; 0 crowds"
    assert [row(report, name) for name in "xyz"] == [["x", "2", "1"], ["y", "1", "1"], ["z", "0", "0"]]
    text = report.lines()
    assert "  short side of a box: 2.0 to 10.0 pixels, median 4.0; 3 small, 0 medium, 0 large" in text
    assert "  images without objects (2):" in text
    assert any("1 of 4 images have no label file" in line for line in text)
    assert "  imbalance: x has 2.0 times as many objects as y" in text
    (skipped,) = check_labels(spec, options=MaskOptions(skip_unlabeled=True))
    assert skipped.title == "train: 3 objects in 3 images, boxes only; 0 crowds"


def test_coco_sizes_crowds_and_damaged_outlines(tmp_path: Path) -> None:
    crowd = {"size": [HEIGHT, WIDTH], "counts": [0, 100, HEIGHT * WIDTH - 100]}
    rows = [
        {"bbox": [0, 0, 5, HEIGHT], "segmentation": crowd, "iscrowd": 1},
        {"bbox": [0, 0, 10, 10], "segmentation": [[0, 0, 10, 0, 10, 10]]},
        {"bbox": [0, 0, 10, 10], "segmentation": {"size": [1, 1], "counts": [1]}, "area": 1},
        {"bbox": [30, 0, 20, 10]},
        {"bbox": [30, 0, 0, 10]},
        {"bbox": [1, 1, 2, 2], "category_id": 8},
    ]
    content = {
        "images": [{"id": n, "file_name": f"{n}.png", "height": HEIGHT + n, "width": WIDTH} for n in range(3)],
        "annotations": [{"id": n, "image_id": 0, "category_id": 1, **one} for n, one in enumerate(rows)],
        "categories": [{"id": 1, "name": "x"}],
    }
    for number in range(2):
        save_image(tmp_path / f"{number}.png")
    write_text(tmp_path / "a.json", json.dumps(content))
    (report,) = check_labels(f"coco:{tmp_path},{tmp_path / 'a.json'}")
    assert report.title == "train: 2 objects in 2 images, outlines; 1 crowds"
    found = "\n".join(report.problems)
    for words in (
        "annotation 3: the box [30, 0, 20, 10] (x, y, width, height) lies outside",
        "annotation 4 has no area",
        "annotation 5 has category 8",
        "1 of 3 images are not in",
        "annotation 2 of 0.png has a mask of [1, 1]",
        "1.png has 20 x 40 pixels (height x width), its annotations say 21 x 40",
    ):
        assert words in found
    assert len(report.problems) == 6


def test_voc_reports_masks_and_boxes(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": [voc_object("cat", (1, 1, 9, 9))], "b": [voc_object("dog", (1, 1, 9, 9))]})
    assert [report.title[:5] for report in check_labels(f"voc:{tmp_path}")] == ["train"]
    for split, stem in (("train", "a"), ("val", "b")):
        save_image(tmp_path / "SegmentationClass" / f"{stem}.png", mask(0, 2))
        for folder in ("Segmentation", "Main"):
            write_text(tmp_path / "ImageSets" / folder / f"{split}.txt", stem)
    reports = check_labels(f"voc:{tmp_path}")
    assert [report.title.partition(";")[0] for report in reports] == [
        "train: masks of 1 images",
        "train: 1 objects in 1 images, boxes only",
        "val: masks of 1 images",
        "val: 1 objects in 1 images, boxes only",
    ]
    assert len(check_labels(f"voc:{tmp_path}", split="val")) == 2


def test_classes_are_counted(tmp_path: Path) -> None:
    for name, count in (("cat", 3), ("dog", 1), ("emu", 2)):
        for number in range(count):
            save_image(tmp_path / name / f"{number}.jpg")
    (report,) = check_labels(str(tmp_path))
    assert report.title == "train: 6 images of 3 classes"
    assert row(report, "cat") == ["cat", "3", "50.00%"]
    text = report.lines()
    assert text[text.index("  classes with one image (1): none of them can be held out:") + 1] == "    dog"
    assert "  imbalance: cat has 3.0 times as many images as dog" in text
    with pytest.raises(UserError, match=r"--split val: .* has only train"):
        check_labels(str(tmp_path), split="val")


def test_several_labels_and_splits_of_a_table(tmp_path: Path) -> None:
    for number in range(4):
        save_image(tmp_path / f"{number}.jpg")
    rows = ["0.jpg,a;b,train", "1.jpg,a,train", "2.jpg,b,val", "3.jpg,a;b,test"]
    write_text(tmp_path / "t.csv", "path,label,split\n" + "\n".join(rows))
    reports = check_labels(f"csv:{tmp_path / 't.csv'}")
    titles = [report.title for report in reports]
    assert titles == [f"{name}: {n} images of 2 classes" for name, n in (("train", 2), ("val", 1), ("test", 1))]
    assert reports[0].facts[0] == "labels of an image: 1 to 2, mean 1.50"
    assert row(reports[0], "a") == ["a", "2", "100.00%"]
