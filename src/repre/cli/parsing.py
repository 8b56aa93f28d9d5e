"""Parses the options of a command into a dataclass, with tyro."""

import io
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from typing import Any, TypeVar

import tyro

from repre.errors import UserError
from repre.utils.config_checks import check_fields, check_out

OptionsT = TypeVar("OptionsT")
MIN_COLUMNS = 40
"""Width of help on a narrower terminal; tyro never ends at a few columns."""

LISTS = ("--data", "--include", "--exclude", "--ignore-label", "--probe.masks.ignore-label")
"""Options that take several values, also where they are given several times; of any other option the last counts."""


def join_repeated(arguments: Sequence[str]) -> list[str]:
    """Moves the values of every further option of `LISTS` behind those of the first: --data A --data B is --data A B.

    tyro would take the last one alone.
    """
    joined: list[str] = []
    values: dict[str, list[str]] = {}
    places: dict[str, int] = {}
    current: str | None = None
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if option in LISTS:
            current = option
            if option not in places:
                places[option] = len(joined)
                joined.append(option)
            values.setdefault(option, []).extend([value] if equals else [])
        elif current is None or argument.startswith("-"):
            current = None
            joined.append(argument)
        else:
            values[current].append(argument)
    for option in sorted(places, key=lambda name: places[name], reverse=True):
        joined[places[option] + 1 : places[option] + 1] = values[option]
    return joined


def parse(
    options: type[OptionsT],
    arguments: Sequence[str],
    *,
    command: str,
    description: str,
    default: OptionsT | None = None,
) -> OptionsT:
    """Parses the arguments of a command. Help and errors are in color only on a terminal, and never if NO_COLOR is set.

    Args:
        options: dataclass with one field per option.
        command: name of the command after `repre`, for messages.
        description: text of --help above the options.
        default: values of the options that are not given; None uses those of the class.

    Raises:
        UserError: a config among the options refuses a value, or a number is out of bounds.
        SystemExit: after --help (0), or for an unknown option or a value of a wrong type (2).
    """
    parsed = _run_tyro(
        options,
        args=join_repeated(arguments),
        prog=f"repre {command}",
        description=description,
        default=tyro.MISSING_NONPROP if default is None else default,
        config=(tyro.conf.AvoidSubcommands,),
    )
    check_fields(parsed)
    check_out(getattr(parsed, "out", None))
    return parsed


def parse_known(options: type[OptionsT], arguments: Sequence[str], *, command: str) -> tuple[OptionsT, list[str]]:
    """Parses those options that decide what the others are; returns them and the remaining arguments.

    Raises:
        SystemExit: for a value of a wrong type (2).
    """
    return _run_tyro(
        options,
        args=arguments,
        prog=f"repre {command}",
        return_unknown_args=True,
        add_help=False,
        config=(tyro.conf.FlagCreatePairsOff,),
    )


def _run_tyro(*args: Any, **settings: Any) -> Any:
    """Calls tyro with two changes: NO_COLOR (https://no-color.org) is honored, and the UserError of a config is raised
    instead of printed in a box."""
    on_terminal = sys.stdout.isatty() and sys.stderr.isatty()
    # tyro has no public switch; without this one it decides itself
    switches = getattr(tyro, "_experimental_options", {})
    switches["ansi_codes"] = on_terminal and not os.environ.get("NO_COLOR")
    printed, columns = io.StringIO(), os.environ.get("COLUMNS")
    try:
        if shutil.get_terminal_size().columns < MIN_COLUMNS:
            os.environ["COLUMNS"] = str(MIN_COLUMNS)
        with redirect_stderr(printed):
            return tyro.cli(*args, **settings)
    except SystemExit as leaving:
        error: BaseException | None = leaving
        while error is not None and not isinstance(error, UserError):
            error = error.__context__
        if error is not None:
            printed = io.StringIO()
            raise error from None
        raise
    finally:
        sys.stderr.write(printed.getvalue())
        os.environ.pop("COLUMNS", None)
        os.environ |= {} if columns is None else {"COLUMNS": columns}
