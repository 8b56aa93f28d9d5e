"""Methods, rows of tables and tasks: what the plans are made of.

A method is one way to obtain an encoder: pre-training, supervised training, or random initialization. A row of a table
names a method and the row it is compared with, at equal seeds. A method may be in several tables and is trained once.
"""

from dataclasses import dataclass
from typing import Literal

from experiments.presets import Data
from repre.config import RunConfig

FIRST_CONFIRMATORY_SEED = 10
"""Earlier seeds belong to the exploratory tables, which the defaults were chosen from."""
FIRST_SEEDS = {"confirmatory": FIRST_CONFIRMATORY_SEED, "camvid-confirmatory": 20, "target-confirmatory": 20}
"""First seed of the confirmatory tables."""
COST_TIERS = {
    name: tier
    for tier, names in enumerate(
        (
            ("foreground", "knn", "linear", "objects", "gradients", "gradients-by-depth"),
            ("miou", "miou-labels", "foreground-labels", "patch-knn-labels"),
            ("upernet", "foreground-upernet"),
            ("ends-labels", "detect", "foreground-detect", "detect-labels", "foreground-detect-labels"),
        )
    )
    for name in names
}
"""Evaluation -> cost tier. Within a table, all evaluations of a cheap tier come before those of the next tier."""
TITLES = {
    "confirmatory": "Confirmatory: does the branch help?",
    "1": "1. Frameworks and encoders, equal epochs and equal training time (exploratory)",
    "2": "2. Is the hierarchy crucial? (exploratory)",
    "3": "3. Comparison with other methods (exploratory)",
    "4": "4. Label efficiency (exploratory)",
    "5": "5. Beyond the paper (exploratory)",
    "stamps": "StampScenes: three folds (exploratory)",
    "data": "Other data (exploratory)",
    "camvid-confirmatory": "Confirmatory: does the branch help on street frames?",
    "target-confirmatory": "Confirmatory: clean or patch-normalized pixels as target?",
    "camvid": "CamVid: every start, frozen (exploratory)",
    "harm": "Which branch does no harm? (exploratory)",
    "ends": "CamVid: trained end to end, with settings chosen for each start (exploratory)",
    "cifar10": "CIFAR-10: every start (exploratory)",
}
"""Table -> title."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to obtain an encoder, without its seed."""

    name: str
    """Unique within a preset; also the name of the file of its results."""
    kind: Literal["pretrain", "random", "supervised", "scratch"]
    """`scratch` is trained with the linear head on the masks that evaluate it, from random init."""
    config: RunConfig
    """The pre-training. The other kinds use its encoder and views only."""
    data: Data
    """Images to train on."""
    dense: Data
    """Images with masks and boxes to evaluate on."""
    single: Data
    """Images with one object each to evaluate on, for image labels."""
    same_time_as: str | None = None
    """Name of another method; this one trains for as many whole epochs as fit into that method's training time."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a table."""

    table: str
    label: str
    method: Method
    baseline: str | None
    """Label of the row to compare with."""
    n_seeds: int
    evaluations: tuple[str, ...]

    @property
    def seeds(self) -> range:
        """The seeds of the row."""
        first = FIRST_SEEDS.get(self.table, 0)
        return range(first, first + self.n_seeds)


@dataclass(frozen=True)
class Task:
    """One evaluation of one method at one seed."""

    table: str
    method: Method
    seed: int
    evaluation: str


def tasks(rows: list[Row]) -> list[Task]:
    """Returns the tasks of all rows, each once.

    They are ordered by table, then by cost tier, then by seed over all rows of the table, so that an early stop leaves
    complete pairs.
    """
    first: dict[tuple[str, int, str], tuple[tuple[int, ...], Task]] = {}
    tables = list(TITLES)
    for row_index, row in enumerate(rows):
        for seed in row.seeds:
            for index, evaluation in enumerate(row.evaluations):
                order = (tables.index(row.table), COST_TIERS[evaluation], seed, row_index, index)
                task = Task(row.table, row.method, seed, evaluation)
                key = (row.method.name, seed, evaluation)
                first[key] = min(first.get(key, (order, task)), (order, task), key=lambda pair: pair[0])
    return [task for _, task in sorted(first.values(), key=lambda pair: pair[0])]
