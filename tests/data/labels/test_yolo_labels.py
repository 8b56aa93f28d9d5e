"""YOLO's lines become exact boxes and masks; what is wrong is named by file, line and value."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from repre.data.labels.boxes import open_boxes
from repre.data.labels.coco_boxes import CocoBoxes
from repre.data.labels.problems import Problems
from repre.errors import UserError
from tests.data.labels.label_files import HEIGHT, WIDTH, save_image, write_text, write_yolo

BOX = "1 0.5 0.4 0.25 0.2"
POLYGON = "0 0.25 0.2 0.75 0.2 0.75 0.6 0.25 0.6"


def yolo(root: Path, **lines: list[str] | None) -> str:
    write_yolo(root / "im", root / "lab", lines)
    write_text(root / "names.yaml", "names: [cat, dog]")
    return f"yolo:{root / 'im'},{root / 'lab'},{root / 'names.yaml'}"


def opened(spec: str, **settings: object) -> CocoBoxes:
    source = open_boxes(spec, whole=True, **settings)  # type: ignore[arg-type]
    assert isinstance(source, CocoBoxes)
    return source


def test_boxes_and_polygons_have_exact_pixels(tmp_path: Path) -> None:
    source = opened(yolo(tmp_path, a=[BOX, "", POLYGON], b=[]))
    assert source.classes == ["cat", "dog"]
    found = source.load(0)
    assert found.boxes.tolist() == [[15, 6, 25, 10], [10, 4, 30, 12]]  # of 40 x 20 pixels
    assert found.labels.tolist() == [2, 1]
    expected = np.zeros((2, HEIGHT, WIDTH), bool)
    expected[0, 6:10, 15:25], expected[1, 4:12, 10:30] = True, True
    assert (found.masks == expected).all()
    assert [row["area"] for row in source.truth(0)] == pytest.approx([40, 160])
    assert source.load(1).boxes.shape == (0, 4)
    assert source.has_masks
    assert not source.notes


def test_a_triangle_covers_the_pixels_whose_center_it_holds(tmp_path: Path) -> None:
    mask = opened(yolo(tmp_path, a=["0 0 0 1 0 0 1"])).load(0).masks[0]
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    inside = x / WIDTH + y / HEIGHT < 1
    assert (mask != inside).mean() < 0.02  # COCO's rule draws the pixels of the edge by its own rounding


def test_supervision_reads_the_same_boxes(tmp_path: Path) -> None:
    """A maintained reader agrees, on boxes and on the boxes around polygons."""
    supervision = pytest.importorskip("supervision")
    rng = np.random.default_rng(0)
    lines = {}
    for stem in "abcd":
        corners = rng.uniform(0, 0.5, (6, 2)), rng.uniform(0.05, 0.5, (6, 2))
        rows = [f"{n % 2} {x + w / 2} {y + h / 2} {w} {h}" for n, ((x, y), (w, h)) in enumerate(zip(*corners))]
        lines[stem] = [*rows, " ".join(["1", *(str(value) for value in rng.uniform(0, 1, 10))])]
    source = opened(yolo(tmp_path, **lines))
    places = [str(tmp_path / name) for name in ("im", "lab", "names.yaml")]
    theirs = supervision.DetectionDataset.from_yolo(*places)
    assert theirs.classes == source.classes
    for index in range(4):
        read = theirs.annotations[str(source.path(index))]
        found = source.load(index)
        assert np.allclose(read.xyxy, found.boxes, atol=1e-4)
        assert (read.class_id == found.labels - 1).all()


def test_an_image_without_a_label_file_has_no_objects(tmp_path: Path) -> None:
    spec = yolo(tmp_path, a=[BOX], b=None, c=[])
    source = opened(spec)
    assert len(source) == 3
    assert "1 of 3 images have no label file, which in YOLO means no objects" in source.notes[0]
    skipped = opened(spec, skip_unlabeled=True)
    assert [Path(skipped.describe(i)).name for i in range(len(skipped))] == ["a.jpg", "c.jpg"]
    assert "1 images without labels are left out" in skipped.notes
    assert not source.has_masks


def test_key_points_behind_a_box_are_not_read(tmp_path: Path) -> None:
    spec = yolo(tmp_path, a=[f"{BOX} 0.1 0.2 0.3 0.4"])
    write_text(tmp_path / "names.yaml", "names: [cat, dog]\nkpt_shape: [2, 2]")
    assert opened(spec).load(0).boxes.tolist() == [[15, 6, 25, 10]]
    assert not opened(spec).has_masks


def test_rounding_at_the_border_is_cut(tmp_path: Path) -> None:
    found = opened(yolo(tmp_path, a=["0 0.49 0.5 1.0 1.0", "0 1.01 0 1 1.02 0 1"])).load(0)
    assert found.boxes[0] == pytest.approx([0, 0, 39.6, 20])
    assert found.boxes[1] == pytest.approx([0, 0, 40, 20])


def test_an_image_on_its_side_is_measured_upright(tmp_path: Path) -> None:
    spec = yolo(tmp_path, a=[BOX])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (HEIGHT, WIDTH)).save(tmp_path / "im" / "a.jpg", exif=exif)
    assert opened(spec).size(0) == (HEIGHT, WIDTH)
    assert opened(spec).load(0).image.shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("0 1.2 0.5 0.1 0.1", "center x is 1.2, outside the image: .* 0 to 1$"),
        ("0 320 240 64 64", "center x is 320, outside the image.*these look like pixels"),
        ("0 0.1 0.5 0.5 0.1", "left side is -0.15, outside the image"),
        ("0 0.5 0.5 0.1 1.3", "height is 1.3, outside"),
        ("0 0 0 1 0 1 -0.3", "y of point 3 is -0.3, outside"),
        ("2 0.5 0.5 0.1 0.1", "the class 2 has no name: .*names.yaml names 2 classes, 0 to 1"),
        ("-1 0.5 0.5 0.1 0.1", "the class -1 is not a whole number"),
        ("0.5 0.5 0.5 0.1 0.1", "the class 0.5 is not a whole number"),
        ("1e9 0.5 0.5 0.1 0.1", "the class 1e9 has no name"),
        ("cat 0.5 0.5 0.1 0.1", "'cat' is not a number"),
        ("0 0.5 0,5 0.1 0.1", "'0,5' is not a number"),
        ("0 nan 0.5 0.1 0.1", "nan is not a finite number"),
        ("0 0.5 0.5 0.1", "3 numbers after the class; a box has 4"),
        ("0 0.5 0.5 0.1 0.1 0.9", "5 numbers after the class"),
        ("0 0.5 0.5 0.1 0", r"has no area"),
        ("0 0.1 0.1 0.2 0.1 0.3 0.1", r"has no area"),
        ("\x00\x01", "is not a number"),
    ],
)
def test_a_wrong_line_is_named_and_collected(line: str, words: str, tmp_path: Path) -> None:
    spec = yolo(tmp_path, a=[BOX], b=[BOX, line])
    with pytest.raises(UserError, match=rf"b.txt line 2.*{words}"):
        opened(spec)
    problems = Problems(collect=True)
    source = opened(spec, problems=problems)
    assert len(problems.messages) == 1
    assert [len(source.truth(i)) for i in range(2)] == [1, 1]


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    spec = yolo(tmp_path, a=[BOX], b=[BOX])
    (tmp_path / "im" / "b.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"b\.jpg cannot be read: not an image"):
        opened(spec)
    problems = Problems(collect=True)
    assert len(opened(spec, problems=problems)) == 1


def test_classes_without_names_are_counted_up_to_a_limit(tmp_path: Path) -> None:
    write_yolo(tmp_path / "im", tmp_path / "lab", {"a": ["12 0.5 0.5 0.1 0.1"]})
    assert opened(f"yolo:{tmp_path / 'im'},{tmp_path / 'lab'}").classes == [str(number) for number in range(13)]
    write_text(tmp_path / "lab" / "a.txt", "1e9 0.5 0.5 0.1 0.1")
    with pytest.raises(UserError, match="the class 1e9 is above 99999"):
        opened(f"yolo:{tmp_path / 'im'},{tmp_path / 'lab'}")


def test_the_fingerprint_changes_with_a_label(tmp_path: Path) -> None:
    spec = yolo(tmp_path, a=[BOX], b=[])
    before = opened(spec).fingerprint()
    assert opened(spec).fingerprint() == before
    write_text(tmp_path / "lab" / "b.txt", BOX)
    assert opened(spec).fingerprint() != before
    save_image(tmp_path / "im" / "b.jpg", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
