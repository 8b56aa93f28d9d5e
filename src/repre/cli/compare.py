"""`repre compare`: evaluate several encoders in the same way."""

from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any

import tyro

from repre import api
from repre.cli.old_options import refuse_old_options
from repre.cli.parsing import parse, parse_known
from repre.evaluation.registry import evaluation

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
    fields: list[Any] = [(_field(name), kind, field(default_factory=kind)) for name, kind in kinds.items()]
    options_type: Any = make_dataclass("Options", fields, bases=(CompareOptions,), frozen=True, kw_only=True)
    options = parse(options_type, arguments, command="compare", description=DESCRIPTION)
    comparison = api.compare(
        options.encoders,
        {name: getattr(options, _field(name)) for name in kinds},
        data=options.data,
        seeds=options.seeds,
        out=options.out,
        supervised=options.supervised,
    )
    print(f"\n{comparison.to_markdown()}\nwritten to {comparison.path}")
    if comparison.report is not None:
        print(f"report: {comparison.report}")
    return 0


def _field(evaluation_name: str) -> str:
    """The field for the settings of an evaluation; tyro turns patch_knn into --patch-knn."""
    return evaluation_name.replace("-", "_")
