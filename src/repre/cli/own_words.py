"""Puts the messages of modules that several commands share into the options of the command that prints them.

Shared modules name the options of `repre pretrain` for images and weights, and those of `repre eval` for labels. What
another command calls otherwise, or does not have, is replaced here. A test walks all messages and all commands.
"""

import re
from collections.abc import Sequence

TRAINING = ("pretrain", "plan")
"""Commands that take every setting of a run."""
POSITIONAL = ("predict", "data check", "data shard")
"""Commands whose images have no option."""
OF_POSITIONAL = (
    (r"^--data:? ", ""),
    (r" to --data\b", ""),
    (r"--data\b", "the images"),
)
OF_CHECK_AND_SHARD = (
    (r"--runtime\.workers", "--workers"),
    (r"--encoder\.channels", "--channels"),
    (r"name the range: --views\.value-range", "name the range in training: `repre pretrain --views.value-range`"),
    (r"--test\b", "`repre eval --test`"),
)
OF_FIXED_ENCODERS = (
    (r"^encoder\.name: timm has no model ([^;]+)", r"there is no run, no file and no timm model called \1"),
    (r"; leave --encoder\.channels at 3", ", but this encoder takes another number"),
    (r"; set --encoder\.channels (\S+)", r"; use an encoder that was trained on \1 channels"),
    (r"; give the channels of the files with --encoder\.channels", ""),
    (r"give other weights to --encoder\.weights", "name other weights with timm's name: NAME=FILE"),
)
OF_EVALUATIONS = (
    (r"(;|,) and with --any-ending [^;]*", r"\1 rename others"),
    (r" and give the pattern as --include", ""),
)
OF_ALL_BUT_TRAINING = ((r" or a smaller --loader\.decode-size", ""),)


def in_own_words(message: str, command: str, arguments: Sequence[str] = ()) -> str:
    """The message of an error with the options of a command.

    Args:
        command: name of the command, with its action: "pretrain", "eval", "data check".
        arguments: what follows it; the first is the action of `data`.
    """
    if command == "data" and arguments:
        command = f"data {arguments[0]}"
    if command in TRAINING:
        return message
    evaluates = command.startswith(("eval", "compare"))
    rules = list(OF_ALL_BUT_TRAINING)
    if command in POSITIONAL:
        rules += OF_POSITIONAL
    if command in ("data check", "data shard"):
        rules += OF_CHECK_AND_SHARD
    else:
        rules += OF_FIXED_ENCODERS
        own = "--value-range" if evaluates or command == "embed" else "`repre pretrain --views.value-range`"
        rules.append((r"--views\.value-range", own))
    if evaluates:
        rules += OF_EVALUATIONS
    for pattern, own in rules:
        message = re.sub(pattern, own, message, flags=re.MULTILINE)
    return message


def prefixed(message: str, options: dict[str, frozenset[str]]) -> str:
    """The message of an evaluation with the options of `compare`, which have the name of the evaluation in front.

    Args:
        options: for every evaluation the options that belong to it, without ``--``.
    """

    def own(match: re.Match[str]) -> str:
        return " or ".join(f"--{name}.{match[1]}" for name, names in options.items() if match[1] in names) or match[0]

    return re.sub(r"--([a-z][a-z0-9.-]*[a-z0-9])", own, message)
