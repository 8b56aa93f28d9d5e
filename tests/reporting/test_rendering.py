"""Nothing that the page shows can become markup, and no name can hide what it is."""

import json

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from repre.reporting.rendering import ENVIRONMENT, render, section, visible
from tests.reporting.fake_run import CLOSING, HOSTILE


def render_text(template: str, **values: object) -> str:
    return ENVIRONMENT.from_string(template).render(values)


@pytest.mark.parametrize("text", [HOSTILE, CLOSING, "a & b", "\"'><svg onload=x>"])
def test_text_and_attributes_are_escaped(text: str) -> None:
    html = render_text('<p title="{{ text }}">{{ text }}</p>', text=text)
    assert "<" not in html.removeprefix("<p ").removesuffix("</p>")
    assert html.count('"') == 2
    assert html.count(">") == 2


def test_text_inside_macros_is_escaped_once() -> None:
    html = render_text('{% from "macros.html" import image %}{{ image(text, text) }}', text='"&')
    assert html == '<img data-key="&#34;&amp;" alt="&#34;&amp;">'


def test_rendered_sections_stay_markup() -> None:
    content = section("left-out", "Left out", reasons=[HOSTILE]).content
    assert isinstance(content, Markup)
    assert "<li>&lt;img" in render_text("{{ content }}", content=content)


def test_nothing_is_shown_for_none_and_a_missing_value_is_an_error() -> None:
    assert render_text("<b>{{ value }}</b>", value=None) == "<b></b>"
    with pytest.raises(UndefinedError):
        render("left-out.html")


@pytest.mark.parametrize("character", ["\u202e", "\udc80", "\x00", "\x1b", "\u200b"])
def test_characters_that_hide_others_are_shown_as_codes(character: str) -> None:
    assert visible(f"a{character}b") == f"a\\u{ord(character):04x}b"
    assert render_text("{{ text }}", text=f"a{character}b") == f"a\\u{ord(character):04x}b"


@pytest.mark.parametrize("text", [CLOSING, "<!--<script>", "a\u2028b", "\udc80"])
def test_data_cannot_close_its_element_and_comes_back(text: str) -> None:
    html = render_text("{{ data | tojson }}", data={text: [text, 1.5, None]})
    assert "<" not in html
    assert ">" not in html
    assert html.isascii()
    assert json.loads(html) == {text: [text, 1.5, None]}


def test_data_refuses_nan() -> None:
    with pytest.raises(ValueError, match="JSON"):
        render_text("{{ data | tojson }}", data=float("nan"))
