"""Every option that a message of the package names exists in every command that can print the message."""

import re

import pytest

from repre.cli.own_words import in_own_words, prefixed
from tests.cli.messages import COMMANDS, EVALUATIONS, PLACE, Text, commands_of, options_of, raised, texts

NAMES_WITH_VALUES = {
    ("data/labels/probe_config.py", f"--probe.{PLACE}"): ("--probe.knn", "--probe.linear", "--probe.segment"),
    ("evaluation/label_probes.py", f"--probe.{PLACE}"): ("--probe.knn", "--probe.linear", "--probe.segment"),
    ("evaluation/comparison.py", f"--{PLACE}.size"): ("--knn.size", "--segment.size"),
    ("models/weight_files.py", f"--encoder.model-args.{PLACE}"): ("--encoder.model-args.KEY",),
    ("data/tools/write.py", f"--{PLACE}"): ("--train", "--val"),
    ("training/planner.py", f"--{PLACE}"): ("--seconds", "--max-hours"),
    ("training/prospects.py", f"--epochs{PLACE}"): ("--epochs",),
    ("training/prospects.py", f"--optim.{PLACE}"): ("--optim.min-lr", "--optim.warmup-lr"),
}
"""What an option can be whose name holds a value, by file and text."""
OF_OTHER_PROGRAMS = {"--dereference", "--hard-dereference", "--nproc-per-node", "--shm-size"}
PARTS = {"--probe", "--probe.masks", "--encoder.model-args", "--encoder.model-args.KEY"}
"""Beginnings of options, which code joins with the rest."""
WHOLE_COMMAND = re.compile(
    rf"repre ((?:eval|data) [a-z{PLACE}|-]+|pretrain|plan|compare|report|export|embed|predict|reconstruct)([^`;\n]*)"
)
NEVER_THERE = {
    # raised only if the options that they name were given
    "data/io/joined_files.py": ("--include", "--exclude"),
    "data/io/sources.py": ("--include", "--exclude", "--any-ending"),
    "evaluation/label_probes.py": ("--test",),  # which it takes out
    # lines of a result, not of an error
    "cli/": ("--model",),
    # of `repre export`, which names both of its own options
    "api/encoders.py": ("--model",),
}


def alone(text: Text) -> str:
    """The text without the whole commands in it, whose options belong to those."""
    return WHOLE_COMMAND.sub("", text.text)


def names(file: str, message: str) -> list[str]:
    """The options that a message names, with all that a value in a name can be."""
    found = [option.rstrip(".") for option in Text(file, 0, message).options]
    return [name for option in found for name in NAMES_WITH_VALUES.get((file, option), (option,))]


def unknown(text: Text) -> list[str]:
    """Commands that can print a text, each with an option that it does not have."""
    kept = next((options for start, options in NEVER_THERE.items() if text.file.startswith(start)), ())
    wrong = []
    for command in commands_of(text.file):
        message = in_own_words(alone(text), *command.split()[:1], command.split()[1:])
        known = options_of(command) | OF_OTHER_PROGRAMS | PARTS | set(kept)
        if command == "compare":
            known |= {f"--{name.partition('.')[2]}" for name in known}
        wrong += [
            f"{command}: {name}" for name in names(text.file, WHOLE_COMMAND.sub("", message)) if name not in known
        ]
    return wrong


@pytest.mark.slow  # the help of every command
def test_the_options_that_messages_name_exist() -> None:
    wrong = {f"{text.file}:{text.line} {text.text}": found for text in texts() if (found := unknown(text))}
    assert not wrong, "\n".join(f"{where}\n    {found}" for where, found in wrong.items())


@pytest.mark.slow
def test_whole_commands_in_messages_exist() -> None:
    """`repre eval linear --x` in a message: the command exists and has the option."""
    seen = 0
    for text in texts():
        for match in WHOLE_COMMAND.finditer(text.text):
            command = match[1]
            choices = [one for one in COMMANDS if one == command or (PLACE in command and one.startswith("eval"))]
            if not choices:
                assert command.startswith("eval "), text
                continue  # `repre eval NAME`
            for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9.-]*[a-z0-9]", match[2]):
                seen += 1
                assert any(option in options_of(one) for one in choices), (option, text)
    assert seen > 20


def test_the_walk_sees_the_messages() -> None:
    assert raised("UserError") > 500
    assert len([text for text in texts() if text.options]) > 300


@pytest.mark.parametrize(
    ("command", "message", "says"),
    [
        (("pretrain",), "--data nope: no such folder", "--data nope: no such folder"),
        (("predict",), "--data nope: no such folder", "nope: no such folder"),
        (("data", "check"), "--data: there is no folder x", "there is no folder x"),
        (("data", "check"), "give the folders themselves to --data", "give the folders themselves"),
        (("data", "shard"), "fewer --runtime.workers or a smaller --loader.decode-size.", "fewer --workers."),
        (("eval", "knn"), "name the range: --views.value-range LOW HIGH", "name the range: --value-range LOW HIGH"),
        (("embed",), "encoder.name: timm has no model 'a'", "there is no run, no file and no timm model called 'a'"),
        (("embed",), "; set --encoder.channels 1", "; use an encoder that was trained on 1 channels"),
        (("data", "check"), "set --encoder.channels 1", "set --channels 1"),
    ],
)  # fmt: skip
def test_a_command_names_its_own_options(command: tuple[str, ...], message: str, says: str) -> None:
    assert in_own_words(message, command[0], command[1:]) == says


def test_compare_puts_the_evaluation_in_front() -> None:
    options = {"segment": frozenset({"fit.lr"}), "detect": frozenset({"fit.lr", "masks"})}
    message = "lower --fit.lr, leave --masks out, name another --out"
    assert prefixed(message, options) == (
        "lower --segment.fit.lr or --detect.fit.lr, leave --detect.masks out, name another --out"
    )
    assert set(EVALUATIONS) >= set(options)
