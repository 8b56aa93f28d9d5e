"""The options that `pretrain` and `plan` share: a recipe or a config file, and every setting of a run."""

import ast
import dataclasses
import sys
import typing
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import tyro
from docstring_parser import parse_from_object

from repre.cli.old_options import refuse_old_options
from repre.cli.parsing import parse, parse_known
from repre.config import RunConfig, dump_yaml, load_yaml
from repre.errors import UserError
from repre.recipes import ENCODERS, RECIPES, fit_to_images, recipe
from repre.training.start_from import continued_config, started_config

COMMON = (
    "data",
    "include",
    "exclude",
    "out",
    "epochs",
    "batch_size",
    "seed",
    "encoder.name",
    "encoder.weights",
    "encoder.patch_size",
    "encoder.channels",
    "reconstruction.weight",
    "views.size",
    "views.n_local",
    "views.value_range",
    "optim.lr",
    "optim.weight_decay",
    "optim.warmup_fraction",
    "optim.clip_grad_norm",
    "compute.precision",
    "compute.micro_batch",
    "compute.compile",
    "loader.cache",
    "probe.knn",
    "probe.linear",
    "probe.segment",
    "runtime.device",
    "runtime.workers",
    "runtime.eval_every_epochs",
    "runtime.checkpoint_minutes",
    "runtime.best_metric",
    "runtime.trackers",
)
"""Settings that --help lists; --help-all lists all settings."""
MODEL_ARGS = "--encoder.model-args."


@dataclass(frozen=True, kw_only=True)
class StartOptions:
    """Options that choose the config to start from, or what to print."""

    config: Path | None = None
    """YAML file with the settings of a run, instead of a recipe."""
    resume: Path | None = None
    """Folder of a run to resume, with its settings."""
    start_from: Annotated[str | None, tyro.conf.arg(name="from")] = None
    """A run, or a checkpoint of one (also RUN@NAME), to start a new run from, with its settings and its whole state."""
    print_config: bool = False
    """Print all settings as YAML and exit; --config reads them back."""
    help_all: bool = False
    """List every option, not only the common ones."""


@dataclass(frozen=True, kw_only=True)
class RunOptions(StartOptions):
    """All options of `pretrain`; `plan` adds its own in a subclass."""

    run: Annotated[RunConfig, tyro.conf.arg(name="")]
    """Settings of the run."""


RunOptionsT = TypeVar("RunOptionsT", bound=RunOptions)


def parse_run_options(
    options: type[RunOptionsT], arguments: Sequence[str], *, command: str, description: str
) -> RunOptionsT:
    """Parses the arguments of a command that takes the settings of a run.

    Raises:
        UserError: an old option, or no such recipe or config.
        SystemExit: after --help, --help-all or --print-config (0), or for a wrong option (2).
    """
    refuse_old_options(arguments)
    name = arguments[0] if arguments and not arguments[0].startswith("-") else None
    start, rest = parse_known(StartOptions, arguments[1:] if name else arguments, command=command)
    base, rest = _take_model_args(_base_config(name, start, rest), rest)
    command = f"{command} {name}" if name else command
    if "-h" in rest or "--help" in rest:
        _print_common(options(run=base), command=command, description=f"{description}\n\n{recipe_table()}")
    if start.help_all:
        rest = ["--help"]
    parsed = parse(options, rest, command=command, description=description, default=options(run=base))
    if name is not None and (fitted := fit_to_images(name, parsed.run)) is not None:
        model_args = base.encoder.model_args
        fitted = replace(fitted, start_from=base.start_from, encoder=replace(fitted.encoder, model_args=model_args))
        parsed = parse(options, rest, command=command, description=description, default=options(run=fitted))
    if start.resume is not None and Path(parsed.run.out) != start.resume:
        raise UserError(
            f"--resume {start.resume} continues in that folder; for a new run use --config {start.resume}/config.yaml"
        )
    if start.print_config:
        print(dump_yaml(parsed.run), end="")
        sys.exit(0)
    return parsed


def recipe_table() -> str:
    """All recipes as text: a table of encoders by names that all encoders have, and those with other names."""
    first, *rest = ENCODERS
    names = [recipe.removeprefix(f"{first}-") for recipe in RECIPES if recipe.startswith(f"{first}-")]
    frameworks = [name for name in names if all(f"{encoder}-{name}" in RECIPES for encoder in rest)]
    rows = [["", *frameworks]]
    for encoder in ENCODERS:
        rows.append([encoder, *("x" if f"{encoder}-{name}" in RECIPES else "" for name in frameworks)])
    lines = ["  " + "".join(f"{cell:12}" for cell in row).rstrip() for row in rows]
    in_table = {f"{encoder}-{name}" for encoder in ENCODERS for name in frameworks}
    others = ", ".join(name for name in RECIPES if name not in in_table)
    return "\n".join(["Recipes are named ENCODER-FRAMEWORK, such as vit-small-dino:", *lines, f"  others: {others}"])


@dataclass(frozen=True, kw_only=True)
class OutOption:
    """The folder of the run, which may hold settings."""

    out: Path | None = None
    """The run's folder."""


def _base_config(name: str | None, start: StartOptions, rest: Sequence[str]) -> RunConfig:
    """The config of a recipe, a file or a run.

    Args:
        rest: the other options.
    """
    if [name, start.config, start.resume].count(None) < 2:
        raise UserError("name only one of: a recipe, --config FILE, --resume RUN")
    if start.start_from is not None:
        if start.resume is not None:
            raise UserError(
                "--resume continues a run in its own folder, --from starts a new run; give only one of them"
            )
        if name is None and start.config is None:
            given, _ = parse_known(OutOption, [*rest], command="pretrain")
            return continued_config(start.start_from, out=given.out)
        return started_config(load_yaml(start.config) if start.config else recipe(str(name)), start.start_from)
    if start.config is not None:
        return load_yaml(start.config)
    if start.resume is not None:
        if not (start.resume / "config.yaml").is_file():
            raise UserError(f"--resume {start.resume}: there is no run in that folder (no config.yaml)")
        return replace(load_yaml(start.resume / "config.yaml"), out=str(start.resume))
    return recipe(name or "quickstart")


def _take_model_args(base: RunConfig, arguments: Sequence[str]) -> tuple[RunConfig, list[str]]:
    """Moves every ``--encoder.model-args.KEY VALUE [VALUE ...]`` from the arguments into the config.

    tyro cannot parse them: which keys exist depends on the timm model.
    """
    waiting, rest, model_args = deque(arguments), [], dict(base.encoder.model_args)
    while waiting:
        argument = waiting.popleft()
        option, equals, value = argument.partition("=")
        if not option.replace("_", "-").startswith(MODEL_ARGS):
            rest.append(argument)
            continue
        values = [value] if equals else []
        while not equals and waiting and not waiting[0].startswith("--"):
            values.append(waiting.popleft())
        if not values:
            raise UserError(f"{option} needs a value")
        parsed = tuple(map(_plain_value, values))
        model_args[option[len(MODEL_ARGS) :].replace("-", "_")] = parsed if len(parsed) > 1 else parsed[0]
    return replace(base, encoder=replace(base.encoder, model_args=model_args)), rest


def _plain_value(text: str) -> Any:
    """The number, truth value or tuple that a text stands for, or else the text."""
    try:
        value = ast.literal_eval(text.title() if text.lower() in ("true", "false") else text)
    except (SyntaxError, ValueError):
        return text
    return value if isinstance(value, int | float | tuple) else text


def _print_common(defaults: RunOptions, *, command: str, description: str) -> NoReturn:
    """Prints help with the command's own options and the common settings of a run, and exits."""
    own = [setting.name for setting in dataclasses.fields(defaults) if setting.name != "run"]
    fields = [_help_field(defaults, name) for name in own] + [_help_field(defaults.run, name) for name in COMMON]
    options: Any = tyro.conf.FlagCreatePairsOff
    parse(options[dataclasses.make_dataclass("Options", fields)], ["--help"], command=command, description=description)
    raise AssertionError("tyro exits after --help")


def _help_field(config: Any, setting: str) -> tuple[str, Any, Any]:
    """A field of the class that help is printed from: its name, annotated type and default."""
    *sections, name = setting.split(".")
    for section in sections:
        config = getattr(config, section)
    texts = {
        item.arg_name: item.description
        for kind in reversed(type(config).__mro__[:-1])
        for item in parse_from_object(kind).params
    }
    option = tyro.conf.arg(name=setting.replace("_", "-"), help=" ".join((texts[name] or "").split()))
    hint = typing.get_type_hints(type(config))[name]
    return setting.replace(".", "_"), Annotated[hint, option], field(default=getattr(config, name))
