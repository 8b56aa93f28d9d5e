"""Nothing that is shown can become markup, and no name can hide what it is."""

import json

import pytest

from repre.reporting.rendering import Html, data, escape, join, tag
from tests.reporting.fake_run import CLOSING, HOSTILE


@pytest.mark.parametrize("text", [HOSTILE, CLOSING, "a & b", "\"'><svg onload=x>"])
def test_text_and_attributes_are_escaped(text: str) -> None:
    made = tag("p", {"title": text}, text)
    assert "<" not in made.removeprefix("<p ").removesuffix("</p>")
    assert made.count('"') == 2
    assert made.count(">") == 2


def test_what_was_made_here_stays() -> None:
    assert tag("p", None, tag("b", None, "x"), [1, None, "<"]) == "<p><b>x</b>1&lt;</p>"
    assert join(Html("<i></i>")) == "<i></i>"


def test_attributes_without_a_value() -> None:
    assert (
        tag("input", {"hidden": True, "checked": False, "value": None, "tabindex": 0}) == '<input hidden tabindex="0">'
    )


@pytest.mark.parametrize("character", ["\u202e", "\udc80", "\x00", "\x1b", "\u200b"])
def test_characters_that_hide_are_shown_as_codes(character: str) -> None:
    assert escape(f"a{character}b") == f"a\\u{ord(character):04x}b"


@pytest.mark.parametrize("text", [CLOSING, "<!--<script>", "a\u2028b", "\udc80"])
def test_data_cannot_close_its_element_and_comes_back(text: str) -> None:
    made = data("d", {text: [text, 1.5, None]})
    inner = made.removeprefix('<script type="application/json" id="d">').removesuffix("</script>")
    assert "<" not in inner
    assert ">" not in inner
    assert json.loads(inner) == {text: [text, 1.5, None]}


def test_data_refuses_nan() -> None:
    with pytest.raises(ValueError, match="JSON"):
        data("d", float("nan"))
