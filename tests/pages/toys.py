"""Makes a command of a page small.

Every option of the page stays in the line. An option on which the time depends keeps its place and gets a smaller value
(`SMALLER`); one that the page does not give is added (`added`). So no option stands in a line twice.
"""

import re
from collections.abc import Callable

from repre.recipes import RECIPES, recipe

Smaller = Callable[[str], str]


def at_most(limit: float) -> Smaller:
    return lambda value: value if value.startswith("-") or float(value) <= limit else str(limit)


def _epochs(value: str) -> str:
    """Keeps the order of runs: one that the page makes longer than another stays longer."""
    return str(max(1, int(value) // 50))


def _side(value: str) -> str:
    """Keeps what is larger than the usual 224 larger than the rest."""
    return value if not value.isdigit() else "64" if int(value) > 224 else str(min(int(value), 32))


SMALLER: dict[str, Smaller] = {
    "--epochs": _epochs,
    "--batch-size": at_most(8),
    "--views.size": _side,
    "--views.local-size": at_most(16),
    "--compute.micro-batch": at_most(4),
    "--seconds": at_most(0.5),
    "--nproc-per-node": at_most(2),
    "--train": at_most(16),
    "--val": at_most(8),
    "--fit.epochs": at_most(1),
    "--fit.batch-size": at_most(8),
    "--width": at_most(16),
    "--size": lambda value: value if int(value) <= 64 else "112",  # of patches of 8, 14 and 16 pixels
    "--memory": at_most(2000),
    "--steps": at_most(10),
}
"""Options whose values become smaller where they stand; of `compare` also behind the name of an evaluation."""

VIT = {  # as many heads as the recipe has, which weights of the hub must share
    "--encoder.patch-size": "8",
    "--encoder.model-args.embed-dim": "48",
    "--encoder.model-args.depth": "4",
}
SWIN = {
    "--encoder.model-args.embed-dim": "16",
    "--encoder.model-args.depths": "1 1 1 1",
    "--encoder.model-args.num-heads": "1 2 2 2",
    "--encoder.model-args.window-size": "4",
}
HEADS = {"hidden_dim": "16", "out_dim": "8", "bottleneck_dim": "8", "prototypes": "32", "queue": "16"}
ON_CPU = {"--runtime.device": "cpu", "--runtime.workers": "0"}
FIT = {"--fit.epochs": "1", "--fit.batch-size": "8"}
EVALUATIONS = {
    "knn": {"--size": "32"},
    "linear": {"--size": "32", "--steps": "10"},
    "finetune": {"--size": "32", **FIT},
    "segment": {"--size": "32", **FIT},
    "patch-knn": {"--size": "32"},
    "depth": {"--size": "32", **FIT},
    "detect": {"--size": "64", "--fit.epochs": "1"},
}
COMMANDS = {
    "predict": ON_CPU,
    "embed": ON_CPU,
    "data scenes": {"--train": "16", "--val": "8", "--size": "32"},
    "data check": {"--workers": "0"},
    "data shard": {"--workers": "0"},
}


def smaller(arguments: list[str]) -> list[str]:
    """The arguments of `repre` with smaller values and further options; the first is the command."""
    plain, options = split(arguments)
    if not plain:  # repre --version
        return arguments
    for name, values in options:
        shrink = SMALLER.get(name) or SMALLER.get("--" + name.partition(".")[2])
        if name == "--seeds" and "," not in " ".join(plain):  # runs joined by commas are one run per seed
            values[:] = ["2"]
        elif shrink is not None:
            values[:] = [shrink(value) for value in values]
        elif name in ("--data", "--test"):
            values[:] = [re.sub(r"^scenes(:\d+)?(:\d+)?$", "scenes:64:32", value) for value in values]
    given = [name for name, _ in options]
    assert len(given) == len(set(given)), f"an option stands twice in: {' '.join(arguments)}"
    values_of = dict(options)
    options += [(name, value.split()) for name, value in added(plain, values_of).items() if name not in given]
    return [*plain, *(word for name, values in options for word in [name, *values])]


def split(arguments: list[str]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Words before the first option, and the options with their values."""
    plain: list[str] = []
    options: list[tuple[str, list[str]]] = []
    for word in arguments:
        if re.match(r"--?[a-z]", word):
            name, equals, value = word.partition("=")
            options.append((name, [value] if equals else []))
        else:
            (options[-1][1] if options else plain).append(word)
    return plain, options


def added(plain: list[str], options: dict[str, list[str]]) -> dict[str, str]:
    """Options that make a command small, by what it does."""
    command = plain[0]
    if command in ("pretrain", "plan"):
        return {**({"--seconds": "0.5"} if command == "plan" else {}), **_pretraining(plain, options)}
    if command == "eval":
        scenes = {} if "--data" in options else {"--data": "scenes:64:32"}
        return {**scenes, **_evaluation(plain[1])}
    if command == "compare":
        names = options.get("--eval", ["knn"])
        own = {f"--{name}.{key[2:]}": value for name in names for key, value in _evaluation(name).items()}
        return {**_scenes_of(names, options), **own, "--seeds": "2"}
    return COMMANDS.get(" ".join(plain[:2]), COMMANDS.get(command, {}))


def _evaluation(name: str) -> dict[str, str]:
    return EVALUATIONS.get(name, {}) | ON_CPU


def _scenes_of(names: list[str], options: dict[str, list[str]]) -> dict[str, str]:
    if "--data" in options:
        return {}
    return {f"--{name}.data": "scenes:16:32" for name in names}


def _pretraining(plain: list[str], options: dict[str, list[str]]) -> dict[str, str]:
    if "--resume" in options:
        return {}
    small = {"--epochs": "1", "--runtime.device": "cpu", "--runtime.workers": "0"}
    if "--config" in options or "--from" in options:
        return small  # the settings of a toy run
    name = plain[1] if len(plain) > 1 else "quickstart"
    if name not in RECIPES:  # one that a page adds; or a mistake, which the command will name
        return small | {"--data": "scenes:64", "--batch-size": "32", "--runtime.monitor-samples": "64"}
    config = recipe(name)
    small |= SWIN if config.encoder.name.startswith("swin") else VIT
    small |= {"--views.size": "32", "--batch-size": "8", "--decoder.dim": "16", "--runtime.monitor-samples": "8"}
    if config.views.mask.patch:
        small["--views.mask.patch"] = "8"
    if config.views.n_local:
        small |= {"--views.local-size": "16", "--views.n-local": "2"}
    fields = vars(config.framework)
    small |= {f"--framework.{key.replace('_', '-')}": value for key, value in HEADS.items() if key in fields}
    if "--data" not in options:
        small["--data"] = "scenes:16:32"
    return small
