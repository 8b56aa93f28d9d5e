"""`repre plan`: measure what a run will take before it starts."""

from collections.abc import Sequence
from dataclasses import dataclass

from repre import api
from repre.cli.run_options import RunOptions, parse_run_options

DESCRIPTION = """Measure on this machine what fits into memory, how fast a run will be and what
limits it. Print options to add to `repre pretrain`.

Examples:
  repre plan vit-small-moco-v3 --data photos/
  repre plan vit-small-dino --data photos/ --max-hours 12"""


@dataclass(frozen=True, kw_only=True)
class PlanOptions(RunOptions):
    """Options of `repre plan`."""

    seconds: float = 30.0
    """Approximate duration of the measurement."""
    max_hours: float | None = None
    """Time budget of the run; the plan shows how many epochs fit."""


def main(arguments: Sequence[str]) -> int:
    options = parse_run_options(PlanOptions, arguments, command="plan", description=DESCRIPTION)
    print(api.plan(options.run, seconds=options.seconds, max_hours=options.max_hours))
    return 0
