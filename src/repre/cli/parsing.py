"""Parses the options of a command into a dataclass, with tyro."""

import os
import sys
from collections.abc import Sequence
from typing import TypeVar

import tyro

OptionsT = TypeVar("OptionsT")


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
        SystemExit: after --help (0), or for an unknown option or a wrong value (2).
    """
    _set_color()
    return tyro.cli(
        options,
        args=arguments,
        prog=f"repre {command}",
        description=description,
        default=tyro.MISSING_NONPROP if default is None else default,
        config=(tyro.conf.AvoidSubcommands,),
    )


def parse_known(options: type[OptionsT], arguments: Sequence[str], *, command: str) -> tuple[OptionsT, list[str]]:
    """Parses some options that decide what the others are; returns them and the remaining arguments.

    Raises:
        SystemExit: for a wrong value (2).
    """
    _set_color()
    return tyro.cli(
        options,
        args=arguments,
        prog=f"repre {command}",
        return_unknown_args=True,
        add_help=False,
        config=(tyro.conf.FlagCreatePairsOff,),
    )


def wants_help(arguments: Sequence[str]) -> bool:
    """Whether the arguments ask for help."""
    return "-h" in arguments or "--help" in arguments


def _set_color() -> None:
    """Applies NO_COLOR (https://no-color.org), which tyro does not read."""
    on_terminal = sys.stdout.isatty() and sys.stderr.isatty()
    tyro._experimental_options["ansi_codes"] = on_terminal and not os.environ.get("NO_COLOR")
