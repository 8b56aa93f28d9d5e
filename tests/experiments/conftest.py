"""Fixtures of the experiments' tests."""

import pytest
from experiments.methods import Task
from experiments.plan import Plan
from experiments.presets import TOY
from experiments.runner import Folders, Runner


@pytest.fixture(scope="package")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Runner, list[Task]]:
    """A runner with some finished tasks of a pair and of all kinds of methods."""
    folder = tmp_path_factory.mktemp("experiments")
    runner = Runner(TOY, Folders(*(folder / name for name in ("packages", "data", "work", "results"))))
    plan = Plan(TOY)
    pair = [plan.pretrained("moco-v3", "vit", variant) for variant in ("plain", "branch")]
    longer = plan.pretrained("moco-v3", "vit", "plain-as-long", same_time_as=pair[1].name)
    simmim = next(row.method for row in plan.rows() if row.method.name.endswith("simmim"))
    others = [plan.not_pretrained(kind, "vit") for kind in ("random", "supervised")]
    tasks = [Task("1", method, 0, name) for name in ("foreground", "knn", "linear", "objects") for method in pair]
    tasks += [Task("1", method, 0, "knn") for method in (longer, simmim, *others)]
    tasks += [
        Task("4", pair[1], 0, "miou-labels"),
        Task("1", pair[0], 0, "upernet"),
        Task("2", pair[1], 0, "gradients"),
        Task("2", pair[0], 0, "gradients-by-depth"),
    ]
    tasks += [Task("1", pair[0], 0, name) for name in ("foreground-upernet", "foreground-detect")]
    assert runner.run(tasks, hours=None) == 0
    return runner, tasks
