"""Turns what a user passes to a function of `repre.api` into the values that the other modules take."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from repre.errors import UserError

ConfigT = TypeVar("ConfigT")
PathLike = str | Path
T = TypeVar("T")
P = ParamSpec("P")


def led_by_rank_0(function: Callable[P, T]) -> Callable[P, T]:
    """Lets rank 0 of several processes run a function, with the help of the others; all get its result."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        if os.environ.get("WORLD_SIZE", "1") == "1":
            return function(*args, **kwargs)
        from repre.utils import together

        return together.led_by_rank_0(partial(function, *args, **kwargs))

    return call


def as_list(values: PathLike | Sequence[PathLike]) -> list[PathLike]:
    """Returns a list of one or more values."""
    return [values] if isinstance(values, str | Path) else list(values)


def as_data(data: PathLike | Sequence[PathLike]) -> str | tuple[str, ...]:
    """Returns one or several ``--data`` strings, as configs hold them."""
    return str(data) if isinstance(data, str | Path) else tuple(map(str, data))


def as_output(path: PathLike) -> Path:
    """Returns the path of a file or folder that a function writes. Missing folders above it are made, apart from one in `/`.

    Raises:
        UserError: the first missing folder lies in `/`: most often a typing error, or a disk that is not mounted; or the
            path is no text in UTF-8, which some file formats need.
    """
    try:
        usable = b"\0" not in str(path).encode()
    except UnicodeEncodeError:
        usable = False
    if not usable:
        raise UserError(f"the output {str(path)!r} is not valid UTF-8; name another one")
    if not Path(path).name:  # such as "." or an empty text
        path = Path(path).absolute()
    folder = Path(path).absolute()
    missing = None
    while not folder.exists() and folder != folder.parent:
        missing, folder = folder, folder.parent
    if missing is not None and missing != Path(path) and folder == folder.parent:
        raise UserError(f"{path} cannot be written: there is no {missing}; create it first: mkdir {missing}")
    return Path(path)


def build_config(kind: type[ConfigT], config: Any, settings: dict[str, Any], *, source: str) -> ConfigT:
    """Returns a config of class `kind` with changed settings.

    Args:
        config: an instance of `kind`, a dictionary of its fields, or None for the defaults.
        settings: fields to replace; a field that is a config may be a dictionary.
        source: function that the values were passed to, for messages.

    Raises:
        UserError: another class, an unknown setting (the message suggests near names), or a wrong value.
    """
    from repre.config_values import from_dict, to_dict

    if not isinstance(config, kind | dict | None):
        raise UserError(f"{source}: config must be a {kind.__name__}, not {type(config).__name__}")
    return from_dict(kind, to_dict(config or {}) | to_dict(settings), source=source)
