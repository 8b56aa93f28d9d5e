"""Checks that every config makes of its own fields, whether it comes from the command line, YAML or Python."""

import dataclasses
import math
import re
import types
import typing
from functools import cache
from numbers import Real
from typing import Any, Literal

from repre.errors import UserError, near_names

ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
"""How an address begins, also one that became a path; a drive of Windows has one letter."""
MAX_WORKERS = 256
"""Processes that decode images for one process; each takes memory of its own."""
WIDEST, LARGEST_SIDE = 2**20, 2**16
"""The most channels of a layer, and pixels of a side, for which sizes in bytes do not overflow."""
INT_LIMITS = (0, 2**31 - 1)
"""Lowest and highest whole number of a setting without limits of its own."""
FLOAT_LIMITS = (0.0, 1e30)
"""Lowest and highest other number of a setting without limits of its own."""
LIMITS: dict[str, tuple[float, float]] = {
    "seed": (0, 2**32 - 1),  # what every generator takes
    **dict.fromkeys(("prototypes", "queue", "width", "dim"), (1, WIDEST)),
    "layers": (1, 100),
    **dict.fromkeys(
        ("size", "image_size", "local_size", "long_side", "window", "patch", "patch_size"), (1, LARGEST_SIDE)
    ),
    **dict.fromkeys(("short_side", "decode_size", "patch_norm"), (0, LARGEST_SIDE)),
    "channels": (1, LARGEST_SIDE),
    "crop_pct": (0.01, 1),
    **dict.fromkeys(
        ("temperature", "student_temperature", "teacher_temperature", "teacher_temperature_start", "patch_temperature"),
        (1e-4, 1e3),
    ),
    **dict.fromkeys(("warmup_fraction", "decay_fraction"), (0, 1)),
    "n_local": (0, 1000),
    **dict.fromkeys(("in_flight_gib", "cache_gib", "remote_cache_gib"), (0, 1e9)),
    **dict.fromkeys(("mean", "std", "value_range"), (-1e30, 1e30)),
    "level": (-INT_LIMITS[1], INT_LIMITS[1]),
    "overlays": (-1, INT_LIMITS[1]),
}
"""Lowest and highest value of a setting by its name, in any config; what a config allows beyond that it checks itself."""

ENDINGS: dict[str, tuple[float, float]] = dict.fromkeys(("_dim", "prototypes", "layers"), (1, 1 << 16))
"""The same for other settings by the end of their name, such as the widths of a framework's heads."""


def check_fields(config: Any, section: str = "") -> None:
    """Refuses choices that a field does not have, empty texts, and numbers that are NaN, infinite or beyond `LIMITS`.
    Call it in `__post_init__`, first.

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
            if one == "" and name != "out" and kind.__dataclass_fields__[name].default != "":
                raise UserError(f"{prefix}{name} is empty; leave it out, or name something")
            if _types(hint) <= {int, float, type(None)} and not isinstance(one, Real | None):
                raise UserError(f"{prefix}{name} must be a number, not {one!r}")
            if isinstance(one, int | float) and not isinstance(one, bool):
                _check_number(f"{prefix}{name}", name, one, whole=float not in _types(hint))
        if name == "value_range" and value is not None and not value[0] < value[1]:
            raise UserError(f"{prefix}value_range must be (lowest, highest), not {value}")


def _check_number(label: str, name: str, value: float, *, whole: bool) -> None:
    """Refuses a number that is not finite or beyond the limits of the setting `name`; messages call it `label`."""
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{label} must be a finite number, not {value}")
    if whole and not isinstance(value, int):
        raise UserError(f"{label} must be a whole number, not {value}")
    usual = next((ENDINGS[end] for end in ENDINGS if name.endswith(end)), INT_LIMITS if whole else FLOAT_LIMITS)
    low, high = LIMITS.get(name, usual)
    if value < low:
        rule = "not be negative" if low == 0 else f"be at least {low:g}"
        raise UserError(f"{label} must {rule}, not {value}")
    if value > high:
        most = f"{high:g}" if high >= 1e9 and not whole else str(int(high))
        raise UserError(f"{label} must be at most {most}, not {value}")


def check_workers(workers: int | None, name: str = "workers") -> None:
    """Refuses a number of processes that is negative, or more than any machine bears.

    Raises:
        UserError: names the setting and its value.
    """
    if workers is not None and not 0 <= workers <= MAX_WORKERS:
        raise UserError(f"{name} must be 0 to {MAX_WORKERS}, not {workers}")


def check_out(out: object) -> None:
    """Refuses an address as the place of results, from which a path would make a folder called ``s3:``.

    Raises:
        UserError: names it, and what to do.
    """
    if ADDRESS.match(str(out)):
        raise UserError(
            f"--out {out} is an address, but results are written to a disk of this machine; name a folder or file there, "
            "and copy it when it is complete"
        )


@cache
def _hints(kind: Any) -> tuple[tuple[str, Any], ...]:
    hints = typing.get_type_hints(kind)
    return tuple((field.name, hints[field.name]) for field in dataclasses.fields(kind))


def _choices(hint: Any) -> tuple[Any, ...]:
    """The values of a Literal, also of one within a union or a tuple; empty for other types."""
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    return tuple(choice for inner in typing.get_args(hint) for choice in _choices(inner))


@cache
def _types(hint: Any) -> frozenset[Any]:
    """The types that a hint is made of."""
    inner = typing.get_args(hint)
    return frozenset().union(*map(_types, inner)) if inner else frozenset([hint])


def _types_beside_choices(hint: Any) -> tuple[type, ...]:
    """The types that a union with a Literal also allows, such as NoneType."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return ()
    return tuple(option for option in typing.get_args(hint) if isinstance(option, type))
