"""Names in what is printed: one line each, and nothing that steers a terminal."""

import pytest

from repre.utils.printable_text import printable, printable_lines, say


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain ü 图.png", "plain ü 图.png"),
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("a\u202eb\u2066", r"a\u202eb\u2066"),
        ("a\x9bb\x7f\x00", r"a\x9bb\x7f\x00"),
        ("a\u2028b", r"a\u2028b"),
    ],
)
def test_control_characters_become_escapes(name: str, shown: str) -> None:
    assert printable(name) == shown


def test_lines_stay_lines_of_a_text_and_not_of_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert printable_lines("a\x1b\nb\r") == "a\\x1b\nb\\r"
    say("first\nname", "second")
    say("third\x1b", error=True)
    out, err = capsys.readouterr()
    assert out == "first\\nname\nsecond\n"
    assert err == "third\\x1b\n"
