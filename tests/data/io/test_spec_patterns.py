"""Paths in braces and patterns of a shell."""

from pathlib import Path

import pytest

from repre.data.io.spec_patterns import expand_braces, expand_pattern
from repre.errors import UserError


def test_braces() -> None:
    assert expand_braces("a/{08..11}.tar") == ["a/08.tar", "a/09.tar", "a/10.tar", "a/11.tar"]
    assert expand_braces("{x,yy}-{0..1}.tar") == ["x-0.tar", "x-1.tar", "yy-0.tar", "yy-1.tar"]
    assert expand_braces("plain.tar") == ["plain.tar"]
    for wrong in ("{5..4}.tar", "{0..99999999}.tar", "{000..999}{000..999}{00..99}.tar"):
        with pytest.raises(UserError):
            expand_braces(wrong)


def test_patterns(tmp_path: Path) -> None:
    for name in ("b/raw/2", "a/raw/1", "a/other/3"):
        (tmp_path / name).mkdir(parents=True)
    assert expand_pattern(f"{tmp_path}/*/raw") == (tmp_path, ["a/raw", "b/raw"])
    assert expand_pattern(f"{tmp_path}/a/**/[13]") == (tmp_path / "a", ["other/3", "raw/1"])
    with pytest.raises(UserError, match="nothing matches"):
        expand_pattern(f"{tmp_path}/*/none")
