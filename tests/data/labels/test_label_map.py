"""From the values in a mask to classes: against a loop over pixels, for numbers and colors, with everything ignored."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from repre.data.labels.label_map import (
    IGNORE,
    LabelMap,
    MaskOptions,
    count_values,
    is_in_color,
    ranges,
    read_colors,
    read_labels,
)
from repre.data.labels.mask_colors import ColorTable, pack
from repre.errors import UserError
from tests.data.labels.label_files import save_image

NUMBERS = {0: ("a", [0]), 1: ("b", [1]), 2: ("c", [2]), 3: ("d", [3])}
COLORS = {0: ("a", [(0, 0, 0)]), 1: ("b", [(255, 0, 0), (200, 0, 0)]), 2: ("c", [(255, 255, 255)])}


def color_map(options: MaskOptions) -> LabelMap:
    entries = {
        number: (name, [int(pack(np.array(color))) for color in colors]) for number, (name, colors) in COLORS.items()
    }
    return LabelMap(entries, options, table=ColorTable(Path("colors.txt"), {}, in_color=True))


@pytest.mark.parametrize(
    ("options", "classes", "expected"),
    [
        (MaskOptions(), "abcd", {0: 0, 1: 1, 2: 2, 3: 3, 255: IGNORE}),
        (MaskOptions(ignore_label=(2, 9)), "abd", {0: 0, 1: 1, 2: IGNORE, 3: 2, 9: IGNORE, 255: IGNORE}),
        (MaskOptions(ignore_label=("b", "3")), "ac", {0: 0, 1: IGNORE, 2: 1, 3: IGNORE, 255: IGNORE}),
        (MaskOptions(reduce_zero_label=True), "bcd", {0: IGNORE, 1: 0, 2: 1, 3: 2, 255: IGNORE}),
    ],
)
def test_numbers(options: MaskOptions, classes: str, expected: dict[int, int]) -> None:
    labels = LabelMap(NUMBERS, options)
    assert labels.classes == list(classes)
    values = np.array([list(expected)], np.int64)
    found = labels.to_classes(Path("m.png"), values)
    assert found.dtype == np.uint8
    assert found.tolist() == [list(expected.values())]
    assert labels.classify(np.array([[4, -1, 70_000, 254]])).tolist() == [[-1] * 4]


def test_255_is_a_class_where_the_table_says_so() -> None:
    labels = LabelMap({0: ("a", [0]), 1: ("b", [1, 255])}, MaskOptions())
    assert labels.to_classes(Path("m.png"), np.array([[0, 255, 1]])).tolist() == [[0, 1, 1]]
    assert labels.ignored == []


@pytest.mark.parametrize("ignored", [(), (0,), ("b",)])
def test_colors_are_looked_up_pixel_by_pixel(ignored: tuple[int | str, ...]) -> None:
    labels = color_map(MaskOptions(ignore_label=ignored))
    rng = np.random.default_rng(0)
    known = [color for _, colors in COLORS.values() for color in colors]
    pixels = np.array([[known[i] for i in row] for row in rng.integers(0, len(known), (9, 7))], np.uint8)
    names = {color: name for name, colors in COLORS.values() for color in colors}
    dropped = {COLORS[label][0] if isinstance(label, int) else label for label in ignored}
    expected = [
        [IGNORE if names[tuple(color)] in dropped else labels.classes.index(names[tuple(color)]) for color in row]
        for row in pixels.tolist()
    ]
    assert labels.to_classes(Path("m.png"), pack(pixels)).tolist() == expected
    assert labels.classify(np.array([[12345]])).tolist() == [[-1]]


def test_messages_name_value_pixel_and_neighbor() -> None:
    values = np.zeros((4, 5), np.int64)
    values[2, 3], values[3, 1] = 7, 7
    with pytest.raises(
        UserError, match=r"^m.png holds the label 7 \(first at row 2, column 3\), but there are 4 classes"
    ):
        LabelMap(NUMBERS, MaskOptions()).to_classes(Path("m.png"), values)
    values[2, 3] = pack(np.array([250, 9, 1]))
    with pytest.raises(
        UserError, match=r"color 250,9,1 \(first at row 2, column 3\).*colors.txt; the nearest is b: 255,0,0"
    ):
        color_map(MaskOptions()).to_classes(Path("m.png"), values * (values != 7))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (MaskOptions(ignore_label=("void",)), "--ignore-label void: no class has that name"),
        (MaskOptions(ignore_label=(0, 1, 2)), "1 classes are left of 4"),
    ],
)
def test_what_leaves_no_classes_is_refused(options: MaskOptions, words: str) -> None:
    with pytest.raises(UserError, match=words):
        LabelMap(NUMBERS, options)


def test_too_many_classes_are_refused() -> None:
    entries = {number: (str(number), [number]) for number in range(256)}
    with pytest.raises(UserError, match="256 classes are left"):
        LabelMap(entries, MaskOptions())
    assert len(LabelMap(entries, MaskOptions(ignore_label=(255,))).classes) == 255


@pytest.mark.parametrize("change", [{"colors": "c.txt"}, {"reduce_zero_label": True}])
def test_binary_goes_with_no_other_classes(change: dict[str, object]) -> None:
    with pytest.raises(UserError, match="binary masks have the classes 0 and 255"):
        MaskOptions(binary=True, **change)  # type: ignore[arg-type]


def test_every_kind_of_png_is_read(tmp_path: Path) -> None:
    numbers = np.array([[0, 1], [2, 255]])
    for name, picture in {
        "gray": Image.fromarray(numbers.astype(np.uint8)),
        "wide": Image.fromarray(numbers.astype(np.uint16)),
        "palette": Image.fromarray(numbers.astype(np.uint8)),
    }.items():
        if name == "palette":
            picture.putpalette([channel for value in range(256) for channel in (value, 0, 9)])
        picture.save(tmp_path / f"{name}.png")
        assert read_labels(tmp_path / f"{name}.png").tolist() == numbers.tolist()
        assert not is_in_color(tmp_path / f"{name}.png")
    assert read_colors(tmp_path / "palette.png").tolist() == [[9, (1 << 16) + 9], [(2 << 16) + 9, (255 << 16) + 9]]
    assert read_colors(tmp_path / "gray.png")[1, 0] == (2 << 16) + (2 << 8) + 2
    color = save_image(tmp_path / "color.png", np.array([[[0, 0, 0], [1, 2, 3]]], np.uint8))
    assert is_in_color(color)
    assert not is_in_color(tmp_path / "none.png")
    with pytest.raises(
        UserError, match=r"color.png is a picture with colors \(RGB\), and no table.*It holds 0,0,0; 1,2,3\..*--colors"
    ):
        read_labels(color)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32, np.int64])
def test_values_are_counted(kind: type) -> None:
    values = np.array([[3, 0, 3], [255, 3, 0]], kind)
    found, counts = count_values(values)
    assert (found.tolist(), counts.tolist()) == ([0, 3, 255], [2, 3, 1])
    assert LabelMap(NUMBERS, MaskOptions()).classify(values).tolist() == [[3, 0, 3], [IGNORE, 3, 0]]


def test_numbers_as_text() -> None:
    assert ranges([3, 0, 1, 2, 7, 9, 10]) == "0 to 3, 7, 9 to 10"


def test_a_mask_of_a_dangerous_kind_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands EPS to Ghostscript, whatever the ending of the file."""
    Image.new("RGB", (4, 4)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    assert not is_in_color(tmp_path / "a.png")
    for read in (read_labels, read_colors):
        with pytest.raises(UserError, match=r"the mask .*a\.png cannot be read"):
            read(tmp_path / "a.png")
    Image.new("L", (100, 100)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UserError, match=r"the mask .*large\.png cannot be read.*decompression bomb"):
        read_labels(tmp_path / "large.png")
