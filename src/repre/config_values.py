"""Configs as plain values: a config to nested dictionaries and back, YAML files, and the differences of two configs."""

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any, Literal

import yaml

from repre.errors import UserError, near_names
from repre.frameworks import FRAMEWORKS, FrameworkConfig, framework_name
from repre.renamed_settings import unknown_setting
from repre.utils.os_errors import reason_of


def to_dict(config: Any) -> dict[str, Any]:
    """A config as nested dictionaries of plain values; the framework's has its name as `name`."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            named = {"name": framework_name(value)} if isinstance(value, FrameworkConfig) else {}
            return named | {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, tuple | list):
            return [plain(item) for item in value]
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return value

    return plain(config)


def from_dict(kind: Any, data: Any, *, source: str = "config", name: str = "") -> Any:
    """The inverse of `to_dict`: builds `kind` from plain values.

    Args:
        kind: a config class, or the type of one of its fields.
        source: where the values come from, for messages.
        name: the setting that the values belong to, such as ``optim.lr``; empty for a whole config.

    Raises:
        UserError: an unknown setting or a value of a wrong type, by name.
    """

    def refuse(words: str) -> UserError:
        return UserError(f"{source}: {name} {words}" if name else f"{source} {words}")

    if kind is FrameworkConfig:
        if not isinstance(data, dict) or "name" not in data:
            raise refuse(f"needs a name, one of {', '.join(FRAMEWORKS)}")
        data = dict(data)
        label = data.pop("name")
        if label not in FRAMEWORKS:
            raise UserError(f"{source}: {name}.name: no framework {label!r}{near_names(str(label), FRAMEWORKS)}")
        kind = FRAMEWORKS[label][0]
    if dataclasses.is_dataclass(kind):
        if not isinstance(data, dict):
            raise refuse(f"must be a table of settings, not {data!r}")
        prefix, hints = f"{name}." if name else "", typing.get_type_hints(kind)
        known = [f.name for f in dataclasses.fields(kind)]
        for key in data:
            if key not in known:
                raise UserError(f"{source}: {unknown_setting(f'{prefix}{key}', known)}")
        build: Any = kind
        return build(**{k: from_dict(hints[k], v, source=source, name=f"{prefix}{k}") for k, v in data.items()})
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if data is None and type(None) in arguments:
            return None
        errors = []
        for option in arguments:
            if option is not type(None):
                try:
                    return from_dict(option, data, source=source, name=name)
                except UserError as error:
                    errors.append(error)
        if len(errors) == 1:
            raise errors[0]
        raise refuse(f"must be {' or '.join(_kind_names(kind))}, not {data!r}")
    if origin is Literal:
        if isinstance(data, bool) and {"on", "off"} <= set(arguments):
            data = "on" if data else "off"  # how YAML reads on and off without quotes
        if data in arguments:
            return data
        raise refuse(f"must be one of {', '.join(map(str, arguments))}, not {data!r}")
    if origin is tuple and isinstance(data, list | tuple):
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(from_dict(arguments[0], item, source=source, name=name) for item in data)
        if len(arguments) == len(data):
            return tuple(from_dict(kind, item, source=source, name=name) for kind, item in zip(arguments, data))
        raise refuse(f"must have {len(arguments)} values, not {len(data)}")
    if origin is dict and isinstance(data, dict):
        return {k: from_dict(arguments[1], v, source=source, name=f"{name}.{k}") for k, v in data.items()}
    if kind is float and isinstance(data, int | float | str) and not isinstance(data, bool):
        try:
            return float(data)  # YAML reads 1e-4 as a string
        except ValueError:
            pass
    if isinstance(kind, type) and isinstance(data, kind) and (kind is bool) == isinstance(data, bool):
        return data
    raise refuse(f"must be {getattr(kind, '__name__', kind)}, not {data!r}")


def _kind_names(kind: Any) -> list[str]:
    """Names of the types and choices of a union, without None."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType, Literal):
        return [name for option in typing.get_args(kind) if option is not type(None) for name in _kind_names(option)]
    return [getattr(kind, "__name__", str(kind))]


def differences(
    mine: dict[str, Any], theirs: dict[str, Any], *, prefix: str = "", places: tuple[str, str] = ("here", "there")
) -> list[str]:
    """A line such as ``optim.lr: 0.001 here, 0.0001 there`` for every setting in which two identities differ.

    Args:
        prefix: of the names of the settings.
        places: how the two are called.
    """
    lines: list[str] = []
    for key in sorted({*mine, *theirs}):
        one, other = mine.get(key), theirs.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            lines += differences(one, other, prefix=f"{prefix}{key}.", places=places)
        elif one != other:
            values = (f"{'not set' if value is None else value} {place}" for value, place in zip((one, other), places))
            lines.append(f"{prefix}{key}: {', '.join(values)}")
    return lines


def read_yaml(path: Path) -> Any:
    """Plain values of a stranger's YAML file: no objects, and no references, of which few lines can stand for terabytes."""
    try:
        text = path.read_text(encoding="utf-8")
        for token in yaml.scan(text):
            if isinstance(token, yaml.AliasToken):
                raise UserError(f"{path} has a reference (*{token.value}); replace it by its value")
        return yaml.safe_load(text)
    except OSError as error:
        raise UserError(f"cannot read the config {path}: {reason_of(error)}") from error
    except UserError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date or a number that is none
        raise UserError(f"{path} is not valid YAML: {str(error).splitlines()[0]}") from error
