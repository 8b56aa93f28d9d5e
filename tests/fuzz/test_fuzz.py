"""A sample of the bad values for all options, the same at every run; `python -m tests.fuzz` tries all of them."""

from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import pytest

from tests.fuzz.commands import Option, find_options, make_commands, without_work
from tests.fuzz.values import VALUES, make_paths, run, sandbox, with_value

SHARE = 2
"""One of so many options is tried, each with one kind of value."""


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return make_commands(tmp_path_factory.mktemp("fuzz") / "data")


@pytest.fixture(scope="module")
def options(everything: dict[str, list[str]]) -> list[Option]:
    return find_options(everything)


@pytest.fixture
def sandboxed() -> Iterator[None]:
    with sandbox(), without_work():
        yield


def number(option: Option) -> int:
    """A number of an option that never changes."""
    return crc32(f"{option.command} {option.name}".encode())


@pytest.mark.slow  # some 240 commands
def test_bad_values_are_refused(
    everything: dict[str, list[str]], options: list[Option], sandboxed: None, tmp_path: Path
) -> None:
    kinds, paths, work = list(VALUES), make_paths(tmp_path), tmp_path / "work"
    work.mkdir()
    failures = []
    for option in options:
        if number(option) % SHARE == 0:
            kind = kinds[number(option) // SHARE % len(kinds)]
            outcome = run(with_value(everything[option.command], option, kind, paths), work)
            if outcome.problem:
                failures.append(f"{option.command} {option.name} {kind}: {outcome.problem}\n{outcome.printed}")
    assert not failures, "\n".join(failures)


def test_every_command_is_accepted_as_it_is(everything: dict[str, list[str]], sandboxed: None, tmp_path: Path) -> None:
    for command, arguments in everything.items():
        outcome = run(arguments, tmp_path)
        assert (outcome.code, outcome.problem) == (0, ""), f"{command}: {outcome}"


def test_the_tables_hold_the_options_of_every_command(everything: dict[str, list[str]], options: list[Option]) -> None:
    known = {(option.command, option.name) for option in options}
    assert {command for command, _ in known} == set(everything)
    assert {("pretrain", "--optim.lr"), ("eval detect", "--runtime.device"), ("report", "--out")} <= known
    assert len(known) > 400
