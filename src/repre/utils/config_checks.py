"""Checks that every config makes of its own fields, whether it comes from the command line, YAML or Python."""

import dataclasses
import math
import types
import typing
from functools import cache
from typing import Any, Literal

from repre.errors import UserError, near_names

MAX_WORKERS = 256
"""Processes that decode images for one process; each takes memory of its own."""
LIMIT = 2**63
"""One more than the largest whole number that torch and NumPy compute with."""


def check_fields(config: Any, section: str = "") -> None:
    """Refuses choices that a field does not have, numbers that are NaN, infinite or beyond 64 bits, and negative seeds.

    Call it in `__post_init__`.

    Args:
        config: a dataclass instance; fields that are configs check themselves.
        section: prefix of the fields' names in messages, such as ``optim``.

    Raises:
        UserError: names the field, its value and what is allowed.
    """
    prefix = f"{section}." if section else ""
    kind: Any = type(config)
    for name, hint in _hints(kind):
        value = getattr(config, name)
        choices, other_types = _choices(hint), _types_beside_choices(hint)
        for one in value if isinstance(value, tuple) else (value,):
            if choices and one not in choices and not isinstance(one, other_types):
                known = [str(choice) for choice in choices] + [t.__name__ for t in other_types if t is not type(None)]
                near = near_names(str(one), known)
                raise UserError(f"{prefix}{name} must be one of {', '.join(known)}, not {one!r}{near}")
            if isinstance(one, float) and not math.isfinite(one):
                raise UserError(f"{prefix}{name} must be a finite number, not {one}")
            if isinstance(one, int) and not -LIMIT <= one < LIMIT:
                raise UserError(f"{prefix}{name} must be a number that 64 bits hold, not {one}")
        if name == "seed" and value < 0:
            raise UserError(f"{prefix}seed must be 0 or more, not {value}")


def check_workers(workers: int | None, name: str = "workers") -> None:
    """Refuses a number of processes that is negative, or more than any machine bears.

    Raises:
        UserError: names the setting and its value.
    """
    if workers is not None and not 0 <= workers <= MAX_WORKERS:
        raise UserError(f"{name} must be 0 to {MAX_WORKERS}, not {workers}")


@cache
def _hints(kind: Any) -> tuple[tuple[str, Any], ...]:
    hints = typing.get_type_hints(kind)
    return tuple((field.name, hints[field.name]) for field in dataclasses.fields(kind))


def _choices(hint: Any) -> tuple[Any, ...]:
    """The values of a Literal, also of one within a union or a tuple; empty for other types."""
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    return tuple(choice for inner in typing.get_args(hint) for choice in _choices(inner))


def _types_beside_choices(hint: Any) -> tuple[type, ...]:
    """The types that a union with a Literal also allows, such as NoneType."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return ()
    return tuple(option for option in typing.get_args(hint) if isinstance(option, type))
