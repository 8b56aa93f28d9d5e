"""Tables of colors: every way to write one, and lines that are refused."""

from pathlib import Path

import numpy as np
import pytest

from repre.data.labels.mask_colors import pack, read_color_table, unpack
from repre.errors import UserError
from tests.data.labels.label_files import write_text

TEXT = "# CamVid\nsky: 1,2,3\n\nred car: 255, 0 ,0\nsky : 7 8 9\n"
NUMBERS_FIRST = "1 2 3\tsky\n255 0 0  red car\n7 8 9 sky\n"
TABLE = "name,r,g,b,class_11\nsky,1,2,3,1\nred car,255,0,0,0\nsky,7,8,9,1\n"


@pytest.mark.parametrize(("name", "text"), [("c.txt", TEXT), ("c.txt", NUMBERS_FIRST), ("class_dict.csv", TABLE)])
def test_every_way_to_write_a_table(name: str, text: str, tmp_path: Path) -> None:
    table = read_color_table(write_text(tmp_path / name, text))
    assert table.in_color
    colors = {name: [unpack(value) for value in values] for name, values in table.values.items()}
    assert colors == {"sky": [(1, 2, 3), (7, 8, 9)], "red car": [(255, 0, 0)]}
    assert list(colors) == ["sky", "red car"]


def test_numbers_instead_of_colors(tmp_path: Path) -> None:
    table = read_color_table(write_text(tmp_path / "c.txt", "ground: 0\nhouse: 1000\nroof = 1001\n"))
    assert not table.in_color
    assert table.values == {"ground": [0], "house": [1000], "roof": [1001]}


def test_packing_has_an_inverse() -> None:
    colors = np.array([[[0, 0, 0], [1, 2, 3]], [[255, 255, 255], [200, 0, 9]]], np.uint8)
    assert [[list(unpack(value)) for value in row] for row in pack(colors).tolist()] == colors.tolist()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("c.txt", "a: 1,2,3\nb\n", "c.txt line 2: 'b' is not `class: r,g,b`"),
        ("c.txt", "a: 1,2,3\nb: 1,2\n", "c.txt line 2: 2 numbers; a color has three"),
        ("c.txt", "a: 1,2,3\nb: 1,2,256\n", "c.txt line 2: 1,2,256 is not a color"),
        ("c.txt", "a: 1,2,3\nb: 1,2,3\n", "c.txt line 2: 1,2,3 already stands for 'a'"),
        ("c.txt", "a: 1,2,3\nb: 4\n", "write a color .* for every class, or one number"),
        ("c.txt", "a: 1,2,3\n", "names 1 classes; write at least two"),
        ("c.csv", "name,red,g,b\na,1,2,3\n", "the header has to be name,r,g,b, not name,red,g,b"),
        ("c.csv", "name,r,g,b\na,1,2,3\nb,1,x,3\n", "c.csv line 3: b,1,x,3 is not name,r,g,b"),
        ("c.csv", "name,r,g,b\na,1,2,3\nb,1\n", "c.csv line 3: b,1,, is not"),
    ],
)
def test_a_wrong_line_is_named(name: str, text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        read_color_table(write_text(tmp_path / name, text))


def test_a_missing_or_binary_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read the table of colors .*none\.txt: No such file"):
        read_color_table(tmp_path / "none.txt")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"cannot read the table of colors .*b\.txt"):
        read_color_table(tmp_path / "b.txt")
