"""`repre compare`: evaluate several encoders in the same way."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass
from pathlib import Path
from typing import Any

import tyro

from repre import api
from repre.cli.old_options import refuse_old_options
from repre.cli.own_words import prefixed
from repre.cli.parsing import parse, parse_known
from repre.errors import RunError, UserError
from repre.evaluation.registry import evaluation
from repre.utils.printable_text import say

DESCRIPTION = """Evaluate several encoders in the same way and print their gains over random init.

Example:
  repre compare runs/photos random:runs/photos --eval knn linear --data labeled/ --seeds 3

--eval decides which further options there are, such as --knn.k or --linear.steps."""


@dataclass(frozen=True, kw_only=True)
class ChosenEvaluations:
    """The option that decides which others there are."""

    eval: tuple[str, ...] = ("knn",)
    """Names of evaluations."""


@dataclass(frozen=True, kw_only=True)
class CompareOptions(ChosenEvaluations):
    """Options of `repre compare`; a subclass has one more field for the settings of each evaluation."""

    encoders: tyro.conf.Positional[tuple[str, ...]] = ()
    """Runs, checkpoints, weights files, timm names or random:NAME."""
    seeds: int = 3
    """Number of seeds of each evaluation."""
    data: str | None = None
    """Labeled data of all evaluations."""
    out: Path = Path("comparison")
    """Folder for compare.md, compare.csv and compare.json."""
    supervised: str | None = None
    """One of the encoders, with supervised weights; the gain over it is printed as well."""


def main(arguments: Sequence[str]) -> int:
    refuse_old_options(arguments)
    chosen, _ = parse_known(ChosenEvaluations, arguments, command="compare")
    kinds = {name: evaluation(name).config for name in chosen.eval}
    settings: list[Any] = [(_field(name), kind, field(default_factory=kind)) for name, kind in kinds.items()]
    options_type: Any = make_dataclass("Options", settings, bases=(CompareOptions,), frozen=True, kw_only=True)
    options = parse(options_type, arguments, command="compare", description=DESCRIPTION)
    configs = {name: getattr(options, _field(name)) for name in kinds}
    try:
        comparison = api.compare(
            options.encoders,
            configs,
            data=options.data,
            seeds=options.seeds,
            out=options.out,
            supervised=options.supervised,
        )
    except (UserError, RunError) as error:
        own = {name: frozenset(_options(config)) - {"data", "seed"} for name, config in configs.items()}
        error.args = (prefixed(str(error), own), *error.args[1:])
        raise
    say("", *comparison.to_markdown().split("\n"), f"written to {comparison.path}")
    if comparison.report is not None:
        say(f"report: {comparison.report}")
    return 0


def _options(config: Any) -> Iterator[str]:
    """Names of the options of an evaluation's config, such as fit.lr."""
    for one in fields(config):
        name, value = one.name.replace("_", "-"), getattr(config, one.name)
        yield from (f"{name}.{inner}" for inner in _options(value)) if is_dataclass(value) else (name,)


def _field(evaluation_name: str) -> str:
    """The field for the settings of an evaluation; tyro turns patch_knn into --patch-knn."""
    return evaluation_name.replace("-", "_")
