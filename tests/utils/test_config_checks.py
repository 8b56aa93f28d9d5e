"""Choices and numbers of every config are checked, however it is made."""

import dataclasses
import typing
from typing import Any

import pytest

from repre.config import RunConfig
from repre.data.scenes import ScenesConfig
from repre.data.tools.shard_config import ShardConfig
from repre.errors import UserError
from repre.evaluation.fitted.fitted_model import PredictOptions
from repre.evaluation.registry import EVALUATIONS
from repre.exporters.data_map import MapOptions
from repre.frameworks import FRAMEWORKS
from repre.utils.config_checks import LIMITS, _choices, _types, check_fields

SIGNED = ("level", "overlays", "value_range", "mean", "ignore_label")
"""Numbers that may be negative: a level from the last, all images, what an instrument measures."""


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
    for kind in (PredictOptions, ShardConfig, ScenesConfig, MapOptions):
        collect(kind())
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


def numbers() -> list[tuple[str, str]]:
    """Config and field of every number, also of one in a list or a union."""
    return [
        (name, field.name)
        for name, config in configs().items()
        for field in dataclasses.fields(config)
        if {int, float} & _types(typing.get_type_hints(type(config))[field.name]) and field.name != "model_args"
    ]


def with_number(name: str, field: str, number: float) -> Any:
    """The config with a number in a field, as often as it has numbers."""
    config = configs()[name]
    hint = typing.get_type_hints(type(config))[field]
    whole, given = float not in _types(hint), getattr(config, field)
    value: Any = int(number) if whole else float(number)
    if "tuple" in str(hint) and "int | tuple" not in str(hint):
        value = (value,) * (len(given) if given else 2)
    return dataclasses.replace(config, **{field: value})


@pytest.mark.parametrize(("name", "field"), numbers())
def test_a_negative_number_is_refused_where_it_has_no_meaning(name: str, field: str) -> None:
    if field in SIGNED:
        return
    with pytest.raises(UserError, match=field):
        with_number(name, field, -1)


@pytest.mark.parametrize(("name", "field"), numbers())
def test_a_number_that_overflows_is_refused(name: str, field: str) -> None:
    if field != "ignore_label":
        with pytest.raises(UserError, match=field):
            with_number(name, field, 10**31)


def test_the_fields_with_limits_exist() -> None:
    assert set(LIMITS) <= {field for _, field in numbers()}
    assert len(numbers()) > 120


@pytest.mark.parametrize("value", [0, -1, 1.5, 2**20 + 1])
def test_the_width_of_a_layer_is_positive_and_fits_memory(value: float) -> None:
    with pytest.raises(UserError, match=r"framework\.hidden_dim must be"):
        FRAMEWORKS["byol"][0](hidden_dim=value)  # type: ignore[call-arg]


def test_betas_lie_below_one() -> None:
    with pytest.raises(UserError, match=r"optim\.betas must lie in \[0, 1\), not .*; AdamW's defaults are 0\.9 0\.999"):
        dataclasses.replace(configs()["OptimConfig"], betas=(0.9, 1.0))


@pytest.mark.parametrize(
    ("name", "field"), [("EncoderConfig", "name"), ("RuntimeConfig", "device"), ("KNNConfig", "data")]
)
def test_an_empty_text_is_refused(name: str, field: str) -> None:
    with pytest.raises(UserError, match=rf"{field} is empty"):
        dataclasses.replace(configs()[name], **{field: ""})


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
