"""Options become a dataclass; what a config refuses is a UserError, what tyro refuses is exit code 2."""

from dataclasses import dataclass, field

import pytest

from repre.cli.parsing import join_repeated, parse, parse_known
from repre.errors import UserError


@dataclass(frozen=True)
class Inner:
    share: float = 0.5
    """A share."""

    def __post_init__(self) -> None:
        if self.share > 1:
            raise UserError(f"inner.share must be at most 1, not {self.share}")


@dataclass(frozen=True)
class Options:
    """Options of a command."""

    count: int = 1
    """How many."""
    inner: Inner = field(default_factory=Inner)
    """More."""


def parse_options(*arguments: str) -> Options:
    return parse(Options, arguments, command="test", description="A test.")


def test_options_replace_defaults() -> None:
    assert parse_options("--count", "3", "--inner.share=0.25") == Options(3, Inner(0.25))
    default = Options(7, Inner(0.1))
    assert parse(Options, ["--count", "3"], command="test", description="", default=default) == Options(3, Inner(0.1))


def test_what_a_config_refuses_is_its_own_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"inner\.share must be at most 1, not 2\.0"):
        parse_options("--inner.share", "2")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--count", "many"], "many"),
        (["--coun", "3"], "--count"),
        (["--count"], "--count"),
    ],
)
def test_other_mistakes_exit_with_a_message(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit:
        parse_options(*arguments)
    assert exit.value.code == 2
    assert message in capsys.readouterr().err


def test_parse_known_returns_the_remaining_arguments() -> None:
    options, rest = parse_known(Inner, ["a", "--count", "3", "--share", "0.25", "--help"], command="test")
    assert options == Inner(0.25)
    assert rest == ["a", "--count", "3", "--help"]


def test_lists_that_are_given_again_are_joined() -> None:
    arguments = ["--data", "a", "b", "--seed", "1", "--ignore-label", "0", "--data=c", "--ignore-label", "void", "-x"]
    joined = ["--data", "a", "b", "c", "--seed", "1", "--ignore-label", "0", "void", "-x"]
    assert join_repeated(arguments) == joined
    assert join_repeated(["x", "--seed", "1", "--seed", "2"]) == ["x", "--seed", "1", "--seed", "2"]
