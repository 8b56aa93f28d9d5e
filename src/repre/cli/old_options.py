"""Answers options that had another name before the first release."""

import re
from collections.abc import Sequence

from repre.errors import UserError
from repre.renamed_settings import REMOVED, RENAMED, unknown_setting


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
            for setting in _settings(option):
                if setting in RENAMED or setting in REMOVED:
                    raise UserError(f"{option}: {unknown_setting(setting, ())}")


def _settings(option: str) -> list[str]:
    """The settings that an option may mean: as given, without ``no-``, and both without the evaluation's name in front."""
    path = option.removeprefix("--").replace("-", "_")
    paths = [path, re.sub(r"(^|\.)no_", r"\1", path)]
    return [*paths, *(path.partition(".")[2] for path in paths)]
