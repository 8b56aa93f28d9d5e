"""Files of predictions have safe names, each its own."""

import pytest

from repre.evaluation.fitted.output_names import LONGEST, output_names


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a/x.jpg", "b/x.jpg", "y.tar.jpg"], ["a/x", "b/x", "y.tar"]),
        (["x.jpg", "x.png", "y.png"], ["x.jpg", "x.png", "y"]),
        (["x.jpg", "x.jpg"], ["x.jpg", "x.jpg-1"]),
        (["X.jpg", "x.png"], ["X.jpg", "x.png"]),
        (["../../etc/passwd.png", "/abs/a.png", "./b//c.png"], ["etc/passwd", "abs/a", "b/c"]),
        (["..\\..\\a.png", "C:\\b.png", "..", "n\x00\n.png"], ["a", "C-/b", "image", "n--"]),
        (["a.b.jpg", "a.png", "a.jpg"], ["a.b", "a.png", "a.jpg"]),
        (["a.jpg.png", "a.png", "a.jpg"], ["a.jpg", "a.png", "a.jpg-2"]),
    ],
)
def test_names(names: list[str], expected: list[str]) -> None:
    assert output_names(names) == expected


def test_long_names_are_cut_and_stay_apart() -> None:
    first, second = output_names([f"d/{'ä' * 200}{end}.png" for end in "ab"])
    assert first != second
    assert all(len(name.encode()) <= LONGEST + 2 for name in (first, second))
    assert output_names(["\udcff.png"]) == ["\udcff"]  # bytes that are no text
