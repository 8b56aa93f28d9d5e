"""Answers options that had another name before the first release."""

from collections.abc import Sequence

from repre.config import REMOVED, RENAMED, unknown_setting
from repre.errors import UserError


def refuse_old_options(arguments: Sequence[str]) -> None:
    """Refuses options that were renamed or removed.

    Accepts every spelling that tyro does: ``--optim.lr-end``, ``--optim.lr_end``, ``--optim.lr-end=0``,
    ``--fit.no-clip``, and ``--segment.fit.clip`` of `compare`.

    Raises:
        UserError: an old option; the message has its new name, or why it is gone.
    """
    for argument in arguments:
        if argument.startswith("--"):
            option = argument.partition("=")[0]
            for setting in _spellings(option):
                if setting in RENAMED or setting in REMOVED:
                    raise UserError(f"{option}: {unknown_setting(setting, ())}")


def _spellings(option: str) -> list[str]:
    """The settings that an option may mean: as given, without ``no-``, and without the evaluation in front."""
    *sections, name = option.removeprefix("--").replace("-", "_").split(".")
    names = [name, name.removeprefix("no_")]
    return [".".join([*sections[first:], name]) for first in range(len(sections) + 1) for name in names]
