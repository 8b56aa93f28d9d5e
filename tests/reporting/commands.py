"""Parses the commands that a report advises with the parser of the command line, without running them."""

import shlex
from typing import Any

import pytest

from repre import api
from repre.cli.main import main


class Parsed(Exception):
    """The options of a command were accepted."""


def check_command(command: str) -> None:
    """Fails if the command line does not accept a command: an unknown option, or a value of a wrong type or range."""

    def stop(*args: Any, **settings: Any) -> None:
        raise Parsed

    program, *arguments = shlex.split(command)
    assert program == "repre"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("pretrain", "plan", "evaluate", "compare", "report", "check_data"):
            patch.setattr(api, name, stop)
        try:
            code = main(arguments)
        except Parsed:
            return
    pytest.fail(f"{command} ended with {code}")
