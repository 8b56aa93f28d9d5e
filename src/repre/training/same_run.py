"""Refuses a config that is not that of the run in its folder, and shows how to extend a finished run."""

import shlex
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from repre.config import RunConfig, identity, load_yaml
from repre.config_values import differences
from repre.errors import UserError, counted

MAX_DIFFERENCES = 8
"""Settings that a message about another config lists."""


def check_same_run(config: RunConfig, run: Path, *, data_is_listed: bool, finished: bool) -> None:
    """Compares a config with that of the run in a folder.

    Args:
        data_is_listed: the run has a list of its files, which tells whether they are the same at another path.
        finished: the run has ended; data that moved are then another run's.

    Raises:
        UserError: they are not the same run. For a finished run that shall have more epochs, the message is the command
            that trains on.
    """
    try:
        saved_config = load_yaml(run / "config.yaml")
    except UserError as error:
        raise UserError(f"{error}; repair the file, or name another --out") from error
    saved, mine = (_as_yaml(identity(each)) for each in (saved_config, config))
    if data_is_listed and not finished:
        mine["data"] = saved["data"]  # the images may have moved; the manifest tells
    lines = differences(mine, saved)
    if not lines:
        return
    if finished and config.epochs > saved_config.epochs and len(lines) == 1 and lines[0].startswith("epochs: "):
        raise UserError(_train_on(run, saved_config, epochs=config.epochs))
    if len(lines) > MAX_DIFFERENCES:
        lines[MAX_DIFFERENCES:] = [f"and {len(lines) - MAX_DIFFERENCES} more"]
    raise UserError(
        "\n  ".join([f"{run} holds a run with another config:", *lines])
        + "\nname another --out, or give the same settings to resume that run"
    )


def _train_on(run: Path, saved: RunConfig, *, epochs: int) -> str:
    """The message for a finished run that shall have more epochs."""
    stable, more = run / "checkpoints" / "stable.pt", epochs - saved.epochs
    out = next(path for path in _names(run, epochs) if not path.exists())
    if stable.is_file():
        source, number = stable, epochs
        meaning = f"Its stable part can be extended without loss. For {epochs} epochs in all, run"
    else:
        source, number = run, more
        meaning = f"To train on for {counted(more, 'more epoch')}, with a schedule of their own, run"
    command = ["repre", "pretrain", "--from", str(source), "--epochs", str(number), "--out", str(out)]
    return f"{run} is a finished run of {counted(saved.epochs, 'epoch')}. {meaning}\n  {shlex.join(command)}"


def _names(run: Path, epochs: int) -> Any:
    yield run.with_name(f"{run.name}-{epochs}")
    yield from (run.with_name(f"{run.name}-{epochs}-{number}") for number in count(2))


def _as_yaml(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as they come back from a YAML file: tuples become lists."""
    return yaml.safe_load(yaml.safe_dump(settings))
