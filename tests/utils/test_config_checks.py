"""Choices and numbers of every config are checked, however it is made."""

import dataclasses
import typing
from typing import Any

import pytest

from repre.config import RunConfig
from repre.errors import UserError
from repre.evaluation.registry import EVALUATIONS
from repre.frameworks import FRAMEWORKS
from repre.utils.config_checks import _choices, check_fields


def configs() -> dict[str, Any]:
    """Every config of the package by its class's name, with its defaults."""
    found: dict[str, Any] = {}

    def collect(config: Any) -> None:
        found.setdefault(type(config).__name__, config)
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            if dataclasses.is_dataclass(value):
                collect(value)

    collect(RunConfig())
    for kind, _ in FRAMEWORKS.values():
        collect(kind())
    for evaluation in EVALUATIONS.values():
        collect(evaluation.config())
    return found


def fields(kind: Any) -> list[tuple[str, str]]:
    """Config and field of every Literal, or of every float."""
    found = []
    for name, config in configs().items():
        hints = typing.get_type_hints(type(config))
        for field in dataclasses.fields(config):
            wanted = _choices(hints[field.name]) if kind is typing.Literal else "float" in str(hints[field.name])
            if wanted:
                found.append((name, field.name))
    return found


@pytest.mark.parametrize(("name", "field"), fields(typing.Literal))
def test_a_wrong_choice_is_refused_by_its_name(name: str, field: str) -> None:
    config = configs()[name]
    wrong = ("bf",) if isinstance(getattr(config, field), tuple) else "bf"
    with pytest.raises(UserError, match=rf"{field} must be one of .* not 'bf'"):
        dataclasses.replace(config, **{field: wrong})


@pytest.mark.parametrize(("name", "field"), fields(float))
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_are_finite(name: str, field: str, number: float) -> None:
    config = configs()[name]
    given = getattr(config, field)
    wrong = (number,) * max(1, len(given)) if isinstance(given, tuple) else number
    with pytest.raises(UserError, match=rf"{field} must be a finite number"):
        dataclasses.replace(config, **{field: wrong})


def test_there_are_fields_to_check() -> None:
    assert ("ComputeConfig", "precision") in fields(typing.Literal)
    assert len(fields(typing.Literal)) > 10
    assert len(fields(float)) > 40


def test_near_choices_are_named() -> None:
    with pytest.raises(UserError, match="did you mean 'bf16'"):
        dataclasses.replace(configs()["ComputeConfig"], precision="bf-16")


def test_none_is_no_choice_unless_it_is_declared() -> None:
    @dataclasses.dataclass(frozen=True)
    class Settings:
        speed: typing.Literal["slow", "fast"] | None = None
        kind: typing.Literal["a", "b"] = "a"

        def __post_init__(self) -> None:
            check_fields(self, "settings")

    Settings()
    with pytest.raises(UserError, match=r"settings\.kind must be one of a, b, not None"):
        Settings(kind=None)  # type: ignore[arg-type]
