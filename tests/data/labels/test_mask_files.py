"""Mask files by their options: colors equal numbers, ignored classes, binary masks, suffixes, skipped images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from repre.data.labels.masks import IGNORE, MaskOptions, open_masks
from repre.data.labels.objects import HELD_OUT_NOTE
from repre.data.labels.problems import Problems
from repre.errors import UserError
from tests.data.labels.label_files import HEIGHT, WIDTH, save_image, write_text

COLORS = np.array([[128, 64, 0], [0, 0, 0], [70, 70, 70], [255, 255, 255]], np.uint8)
NUMBERS = np.random.default_rng(0).integers(0, 4, (5, HEIGHT, WIDTH), dtype=np.uint8)


def pairs(root: Path, masks: np.ndarray, *, name: str = "{}.png") -> str:
    for number, values in enumerate(masks):
        save_image(root / "im" / f"{number}.jpg")
        save_image(root / "m" / name.format(number), values)
    return f"pairs:{root / 'im'},{root / 'm'}"


def loaded(spec: str, **options: object) -> tuple[list[str], np.ndarray]:
    source = open_masks(spec, whole=True, options=MaskOptions(**options))  # type: ignore[arg-type]
    return source.classes, np.stack([source.load(index)[1] for index in range(len(source))])


def table(root: Path, name: str = "colors.txt") -> Path:
    names = ("road", "void", "house", "sky")
    lines = [f"{one}: {','.join(map(str, color))}" for one, color in zip(names, COLORS.tolist())]
    if name.endswith(".csv"):
        lines = ["name,r,g,b", *(line.replace(": ", ",") for line in lines)]
    return write_text(root / name, "\n".join(lines))


@pytest.mark.parametrize("name", ["colors.txt", "m/colors.txt", "class_dict.csv"])
def test_masks_in_color_equal_those_of_numbers(name: str, tmp_path: Path) -> None:
    expected = loaded(pairs(tmp_path / "numbers", NUMBERS))[1]
    spec = pairs(tmp_path / "colors", COLORS[NUMBERS])
    file = table(tmp_path / "colors", name)
    classes, found = loaded(spec)
    assert classes == ["road", "void", "house", "sky"]
    assert (found == expected).all()
    assert (expected == NUMBERS).all()
    assert open_masks(spec).notes[0] == f"masks are read with the table {file}"
    classes, found = loaded(spec, ignore_label=("void",))
    assert classes == ["road", "house", "sky"]
    assert (found == np.array([0, IGNORE, 1, 2])[NUMBERS]).all()


def test_a_named_table_reads_palettes_and_gray_values_as_colors(tmp_path: Path) -> None:
    for number, values in enumerate(NUMBERS):
        save_image(tmp_path / "im" / f"{number}.jpg")
        mask = Image.fromarray(values)
        mask.putpalette(COLORS.ravel().tolist() + [1] * 756)
        (tmp_path / "m").mkdir(exist_ok=True)
        mask.save(tmp_path / "m" / f"{number}.png")
    spec = f"pairs:{tmp_path / 'im'},{tmp_path / 'm'}"
    file = table(tmp_path / "elsewhere")
    classes, found = loaded(spec, colors=str(file))
    assert classes[0] == "road"
    assert (found == NUMBERS).all()
    gray = pairs(
        tmp_path / "gray", np.array([[[0, 255]], [[255, 0]]], np.uint8).repeat(HEIGHT, 1).repeat(WIDTH // 2, 2)
    )
    file = write_text(tmp_path / "black.txt", "black: 0,0,0\nwhite: 255,255,255")
    assert loaded(gray, colors=str(file))[1][0, 0, [0, -1]].tolist() == [0, 1]  # 255 is a class of the table


def test_a_table_of_numbers_closes_gaps(tmp_path: Path) -> None:
    spec = pairs(tmp_path, np.array([0, 1000, 1003, 65535], np.uint16)[NUMBERS])
    with pytest.raises(UserError, match=r"hold 4 labels, 0, 1000, 1003, 65535; .*class: number.*--colors"):
        open_masks(spec)
    file = write_text(tmp_path / "ids.txt", "a: 0\nb: 1000\nc: 1003\nb: 65535")
    classes, found = loaded(spec, colors=str(file))
    assert classes == ["a", "b", "c"]
    assert (found == np.array([0, 1, 2, 1])[NUMBERS]).all()


def test_a_color_that_is_not_in_the_table(tmp_path: Path) -> None:
    masks = COLORS[NUMBERS]
    masks[2, 3, 5] = 70, 71, 72
    spec = pairs(tmp_path, masks)
    with pytest.raises(UserError, match=r"0\.png is a picture with colors \(RGB\), and no table"):
        loaded(spec)
    table(tmp_path)
    words = (
        r"m/2\.png holds the color 70,71,72 \(first at row 3, column 5\), .*colors\.txt; the nearest is house: 70,70,70"
    )
    with pytest.raises(UserError, match=words):
        loaded(spec)


def test_ignored_classes_leave_no_gap(tmp_path: Path) -> None:
    spec = pairs(tmp_path, NUMBERS)
    assert loaded(spec, ignore_label=(3,))[0] == ["0", "1", "2"]
    classes, found = loaded(spec, ignore_label=(0, 2))
    assert classes == ["1", "3"]
    assert (found == np.array([IGNORE, 0, IGNORE, 1])[NUMBERS]).all()
    write_text(tmp_path / "classes.txt", "road\nvoid\nhouse\nsky")
    classes, found = loaded(spec, ignore_label=("void",))
    assert classes == ["road", "house", "sky"]
    assert (found == np.array([0, IGNORE, 1, 2])[NUMBERS]).all()


def test_reduce_zero_label(tmp_path: Path) -> None:
    spec = pairs(tmp_path, NUMBERS)
    classes, found = loaded(spec, reduce_zero_label=True)
    assert classes == ["1", "2", "3"]
    assert (found == np.array([IGNORE, 0, 1, 2])[NUMBERS]).all()
    write_text(tmp_path / "classes.txt", "one\ntwo\nthree")
    assert loaded(spec, reduce_zero_label=True)[0] == ["one", "two", "three"]
    assert (loaded(spec, reduce_zero_label=True)[1] == found).all()


def test_binary_masks(tmp_path: Path) -> None:
    spec = pairs(tmp_path, np.array([0, 255, 255, 0], np.uint8)[NUMBERS])
    with pytest.raises(UserError, match=r"no label above 0.*255 occurs, and is ignored; --binary makes it the class"):
        open_masks(spec)
    classes, found = loaded(spec, binary=True)
    assert classes == ["background", "foreground"]
    assert (found == np.array([0, 1, 1, 0])[NUMBERS]).all()
    save_image(tmp_path / "m" / "3.png", np.full((HEIGHT, WIDTH), 128, np.uint8))
    with pytest.raises(UserError, match=r"3\.png holds the label 128 .*labels are 0 to 1, 255; --ignore-label 128"):
        loaded(spec, binary=True)
    assert (loaded(spec, binary=True, ignore_label=(128,))[1][3] == IGNORE).all()
    write_text(tmp_path / "classes.txt", "a\nb\nc")
    with pytest.raises(UserError, match=r"two classes, but classes\.txt names 3"):
        loaded(spec, binary=True)


def test_classes_that_occur_in_no_mask_are_named(tmp_path: Path) -> None:
    spec = pairs(tmp_path, np.array([0, 1, 4, 255], np.uint8)[NUMBERS])
    ignored = "255 is ignored: 24.8% of the pixels of all masks"
    assert open_masks(spec).notes == ["2 of 5 classes occur in no mask: 2 to 3", ignored, HELD_OUT_NOTE]
    assert open_masks(spec, options=MaskOptions(ignore_label=(2,))).notes[0].endswith("no mask: 3")


def test_suffixes_and_one_folder(tmp_path: Path) -> None:
    spec = pairs(tmp_path, NUMBERS, name="{}_mask.png")
    assert (loaded(spec)[1] == NUMBERS).all()
    for number, values in enumerate(255 - NUMBERS):
        save_image(tmp_path / "m" / f"{number}_other.png", values)
    with pytest.raises(UserError, match=r"several masks in .*\*_mask\.png, \*_other\.png"):
        open_masks(spec)
    assert (loaded(f"{spec}/*_mask.png")[1] == NUMBERS).all()
    with pytest.raises(UserError, match=r"DIR/\*SUFFIX\.png"):
        open_masks(f"{spec}/*_mask")
    for split in ("train", "val"):
        for number in range(2 if split == "train" else 1):
            save_image(tmp_path / "one" / split / f"{number}.jpg")
            save_image(tmp_path / "one" / split / f"{number}_L.png", NUMBERS[number])
    source = open_masks(f"pairs:{tmp_path / 'one'}", split="val")
    assert len(source) == 1
    assert HELD_OUT_NOTE not in source.notes
    assert (source.load(0)[1] == NUMBERS[0]).all()


def test_images_without_masks_are_counted(tmp_path: Path) -> None:
    spec = pairs(tmp_path, NUMBERS)
    (tmp_path / "m" / "4.png").unlink()
    with pytest.raises(UserError, match=r"1 of 5 images have no mask.*--skip-unlabeled"):
        open_masks(spec)
    source = open_masks(spec, whole=True, options=MaskOptions(skip_unlabeled=True))
    assert len(source) == 4
    assert source.notes == ["1 of 5 images have no mask and are left out"]


@pytest.mark.parametrize(
    ("spec", "options", "words"),
    [
        ("scenes:4:32", MaskOptions(ignore_label=(0,)), "every pixel has a class"),
        ("ade20k:x", MaskOptions(binary=True), "--binary are for pairs:"),
        ("voc:x", MaskOptions(colors="c.txt"), "--colors and --binary are for pairs:"),
        ("pairs:{tmp}/im,{tmp}/m", MaskOptions(colors="none.txt"), "cannot read the table of colors none.txt"),
        ("pairs:{tmp}/im,{tmp}/m", MaskOptions(ignore_label=("sky",)), "no class has that name"),
    ],
)
def test_options_that_mean_nothing_are_refused(spec: str, options: MaskOptions, words: str, tmp_path: Path) -> None:
    pairs(tmp_path, NUMBERS)
    with pytest.raises(UserError, match=words):
        open_masks(spec.replace("{tmp}", str(tmp_path)), options=options)


def test_voc_takes_its_classes_from_a_file_and_ignores_some(tmp_path: Path) -> None:
    for stem, values in (("a", NUMBERS[0]), ("b", NUMBERS[1])):
        save_image(tmp_path / "JPEGImages" / f"{stem}.jpg")
        save_image(tmp_path / "SegmentationClass" / f"{stem}.png", values)
    write_text(tmp_path / "ImageSets/Segmentation/train.txt", "a\nb\n")
    write_text(tmp_path / "classes.txt", "w\nx\ny\nz\n")
    source = open_masks(f"voc:{tmp_path}", options=MaskOptions(ignore_label=("w",)))
    assert source.classes == ["x", "y", "z"]
    assert (source.load(0)[1] == np.array([IGNORE, 0, 1, 2])[NUMBERS[0]]).all()


def test_the_fingerprint_changes_with_the_options(tmp_path: Path) -> None:
    spec = pairs(tmp_path, NUMBERS)
    options = [MaskOptions(), MaskOptions(ignore_label=(1,)), MaskOptions(reduce_zero_label=True)]
    assert len({open_masks(spec, options=one).fingerprint() for one in options}) == 3


def test_a_report_opens_what_an_evaluation_refuses(tmp_path: Path) -> None:
    spec = pairs(tmp_path, np.array([0, 1000, 1003, 65535], np.uint16)[NUMBERS])
    problems = Problems(collect=True)
    source = open_masks(spec, whole=True, problems=problems)
    assert source.classes == ["0", "1000", "1003", "65535"]
    assert len(problems.messages) == 1
