"""Numbers in masks that are no classes are refused with what was read and what to do; legitimate ones are not."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from repre.data.labels.label_map import MaskOptions
from repre.data.labels.mask_files import FileMasks
from repre.data.labels.masks import open_masks
from repre.data.tools.check_labels import check_labels
from repre.errors import UserError
from repre.evaluation.segmentation.segment import open_train_and_test
from tests.data.labels.label_files import HEIGHT, WIDTH, save_image, write_text

Array = np.ndarray
NOISE = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH)).astype(np.uint8)
COLORS = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0]], np.uint8)


def stripes(*values: int, dtype: type = np.uint8) -> Array:
    """Stripes of values, about equally wide."""
    return np.array(values, dtype)[np.arange(HEIGHT) * len(values) // HEIGHT][:, None].repeat(WIDTH, 1)


def smoothed(*values: int) -> Array:
    large = Image.fromarray(stripes(*values)).resize((10 * WIDTH, 40 * HEIGHT), Image.Resampling.NEAREST)
    return np.asarray(large.filter(ImageFilter.GaussianBlur(6)))


def pairs(root: Path, *masks: Array, classes: str | None = None) -> str:
    for number, values in enumerate(masks):
        save_image(root / "im" / f"{number}.jpg", np.zeros((*values.shape[:2], 3), np.uint8))
        save_image(root / "m" / f"{number}.png", values)
    if classes is not None:
        write_text(root / "classes.txt", classes)
    return f"pairs:{root / 'im'},{root / 'm'}"


def loaded(spec: str, **options: object) -> FileMasks:
    source = open_masks(spec, whole=True, options=MaskOptions(**options))  # type: ignore[arg-type]
    assert isinstance(source, FileMasks)
    for index in range(len(source)):
        source.load(index)
    return source


DOUBTS = {
    "0, 127, 255": ([stripes(0, 127, 255)], "0, 127, 255, of which 255 is ignored", "`class 1: 127`, `class 2: 255`"),
    "0, 128": ([stripes(0, 128)], "hold the values 0, 128. The largest means 129 classes", "--colors"),
    "tens": ([stripes(0, 10), stripes(20, 30)], "31 classes, but 27 of them never occur", "`class 3: 30`"),
    "a hole": ([stripes(0, 1, 2, 254)], "0 to 2, 254. The largest means 255 classes", "`class 3: 254`"),
    "gray levels": ([stripes(*range(0, 250, 25))], "226 classes, but 216 of them never occur", "`class: number`"),
    "a photograph": ([NOISE], "1 of 1 masks look like photographs", "Write pairs:IMAGES,MASKS in that order"),
    "smoothed": ([smoothed(0, 255)], "as smoothed edges do", "--binary"),
    "smoothed 0 to 200": (
        [smoothed(0, 200)],
        "would be 201 classes. Resize masks to the nearest pixel",
        "without JPEG",
    ),
    "one label": ([stripes(1), stripes(1)], "hold one label only, 1", "--colors"),
    "one label and 255": ([stripes(3, 3, 255)], "4 classes, but 3 of them never occur", "`class 1: 255`"),
    "16 bits": ([stripes(0, 200, 100, dtype=np.uint16)], "201 classes, but 198 of them never occur", "--colors"),
}


@pytest.mark.parametrize("name", DOUBTS)
def test_numbers_are_asked_about_and_can_be_confirmed(name: str, tmp_path: Path) -> None:
    masks, found, remedy = DOUBTS[name]
    spec = pairs(tmp_path, *masks)
    with pytest.raises(UserError, match=r"confirm them with --accept-labels$") as error:
        open_masks(spec, whole=True)
    assert found in str(error.value)
    assert remedy in str(error.value)
    (report,) = check_labels(spec)
    assert any(found in problem for problem in report.problems), "the report says the same"
    assert loaded(spec, accept_labels=True).classes[:2] == ["0", "1"]
    (report,) = check_labels(spec, options=MaskOptions(accept_labels=True))
    assert not report.problems


def test_the_lines_of_the_message_are_a_table(tmp_path: Path) -> None:
    spec = pairs(tmp_path, stripes(0, 127, 255))
    with pytest.raises(UserError) as error:
        open_masks(spec)
    lines = str(error.value).partition("here the lines are ")[2].split("`")[1::2]
    table = write_text(tmp_path / "table.txt", "\n".join(lines))
    assert loaded(spec, colors=str(table)).classes == ["class 0", "class 1", "class 2"]
    assert sorted(np.unique(loaded(spec, colors=str(table)).load(0)[1])) == [0, 1, 2]


def test_255_in_most_pixels_is_confirmed_by_its_own_option(tmp_path: Path) -> None:
    spec = pairs(tmp_path, stripes(0, 1, 255, 255, 255))
    with pytest.raises(
        UserError, match=r"hold 255 in 60% of the pixels, and 255 is ignored.*--ignore-label 255; if it is"
    ):
        open_masks(spec)
    assert check_labels(spec)[0].problems
    assert loaded(spec, ignore_label=(255,)).classes == ["0", "1"]
    assert loaded(spec, accept_labels=True).classes == ["0", "1"]


def test_0_and_255_alone_are_read_with_binary(tmp_path: Path) -> None:
    spec = pairs(tmp_path, stripes(0, 255))
    with pytest.raises(UserError, match="255 occurs, and is ignored; --binary makes it the class 1"):
        open_masks(spec)
    assert loaded(spec, binary=True).classes == ["background", "foreground"]


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ([COLORS[stripes(0, 1, 2)]], "It holds 0,0,0; 0,128,0; 128,0,0. Write colors.txt next to the folder"),
        ([np.stack([stripes(0, 1)] * 3, axis=-1)], "that are all gray; save one channel as a gray PNG"),
        ([np.stack([NOISE, NOISE, 255 - NOISE], axis=-1)], "and 233 more"),
    ],
    ids=["colors", "gray", "a photograph"],
)
def test_colors_without_a_table_are_listed(masks: list[Array], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        open_masks(pairs(tmp_path, *masks))
    assert message in str(error.value)
    assert len(str(error.value)) < 500


LEGITIMATE = {
    "CamVid": ([stripes(*range(12))], {}, 12, 0),
    "CamVid with void": ([stripes(*range(12))], {"ignore_label": (11,)}, 11, 0),
    "VOC": ([stripes(0, *[5] * 9, 255), stripes(*range(20)), stripes(20, 0)], {}, 21, 1),
    "ADE20K": ([np.arange(150).repeat(8).reshape(30, 40).astype(np.uint8) + 1], {"reduce_zero_label": True}, 150, 0),
    "Cityscapes": ([stripes(*[*range(19)], 255)], {}, 19, 1),
    "a rare class": ([stripes(*range(12)), stripes(13, 14)], {}, 15, 1),
    "two": ([stripes(0, 1)], {}, 2, 0),
    "from 1": ([stripes(1, 2)], {}, 3, 1),
    "noisy classes": ([(NOISE % 5)], {}, 5, 0),
    "named with gaps": ([stripes(0, 9)], {}, 10, 0),
}


@pytest.mark.parametrize("name", LEGITIMATE)
def test_legitimate_masks_pass(name: str, tmp_path: Path) -> None:
    masks, options, classes, notes = LEGITIMATE[name]
    names = "\n".join(f"c{n}" for n in range(10)) if name == "named with gaps" else None
    source = loaded(pairs(tmp_path, *masks, classes=names), **options)  # type: ignore[arg-type]
    assert len(source.classes) == classes
    assert len(source.notes) == notes


def test_masks_to_test_on_may_lack_classes(tmp_path: Path) -> None:
    train, few = pairs(tmp_path / "a", stripes(*range(12))), pairs(tmp_path / "b", stripes(0, 9))
    assert len(open_train_and_test(train, few, channels=3)[1].classes) == 12
    with pytest.raises(UserError, match="--accept-labels"):
        open_train_and_test(few, train, channels=3)


def test_a_label_without_a_name_is_named(tmp_path: Path) -> None:
    spec = pairs(tmp_path, stripes(0, 1, 2), classes="a\nb")
    with pytest.raises(UserError, match=r"holds the label 2 \(first at row 14, column 0\), but there are 2 classes"):
        loaded(spec)
    assert loaded(spec, ignore_label=(2,)).classes == ["a", "b"]
