"""The plan on real images: the comparison that was fixed beforehand, unique names, pairs that differ in the branch only."""

from dataclasses import replace
from pathlib import Path

import pytest
from experiments.all_presets import PRESETS, plan_of
from experiments.analysis import METRICS
from experiments.measure import evaluation_configs
from experiments.methods import COST_TIERS, TITLES, Method, tasks
from experiments.real_presets import LEASE, REAL_CPU

from repre.config import RunConfig

FIXED = ("camvid-confirmatory", "target-confirmatory")
REAL = [name for name, preset in PRESETS.items() if preset.plan == "real"]


def test_the_confirmatory_comparison_is_the_one_that_was_fixed() -> None:
    rows = [row for row in plan_of(REAL_CPU).rows() if row.table == "camvid-confirmatory"]
    plain, branch, random = rows
    assert [row.label for row in rows] == ["moco-v3 + vit", "moco-v3 + vit + branch", "random init vit"]
    assert (plain.baseline, branch.baseline, random.baseline) == (random.label, plain.label, None)
    assert all(row.seeds == range(20, 25) and row.evaluations == ("miou-labels",) for row in rows)
    assert branch.method.config.reconstruction == RunConfig().reconstruction
    assert replace(plain.method.config, reconstruction=RunConfig().reconstruction) == branch.method.config
    _, linear = evaluation_configs(REAL_CPU, dense=Path("d"), single=Path("s"))["miou-labels"]
    assert linear.is_frozen
    assert linear.head == "linear"
    assert linear.label_fraction == (10 / 367, 36 / 367, 1.0)
    others = {
        (row.method.name, seed) for row in plan_of(REAL_CPU).rows() if row.table not in FIXED for seed in row.seeds
    }
    assert not others & {(row.method.name, seed) for row in rows for seed in row.seeds}


def test_the_comparison_of_targets_is_the_one_that_was_fixed() -> None:
    rows = [row for row in plan_of(REAL_CPU).rows() if row.table == "target-confirmatory"]
    assert [row.label for row in rows] == [
        f"{data}: {target}"
        for data in ("camvid", "fashion")
        for target in ("plain", "clean pixels", "patch-normalized pixels")
    ]
    for plain, clean, normalized in (rows[:3], rows[3:]):
        assert (plain.baseline, clean.baseline, normalized.baseline) == (None, plain.label, clean.label)
        assert clean.method.config.reconstruction == RunConfig().reconstruction
        changed = replace(clean.method.config.reconstruction, patch_norm=8)
        assert normalized.method.config == replace(clean.method.config, reconstruction=changed)
    assert all(row.seeds == range(20, 25) for row in rows)
    others = {
        (row.method.name, seed) for row in plan_of(REAL_CPU).rows() if row.table not in FIXED for seed in row.seeds
    }
    assert not others & {(row.method.name, seed) for row in rows for seed in row.seeds}


@pytest.mark.parametrize("name", REAL)
def test_a_name_is_one_method_and_every_row_can_be_measured(name: str) -> None:
    preset = PRESETS[name]
    rows = plan_of(preset).rows()
    methods: dict[str, Method] = {}
    for row in rows:
        assert methods.setdefault(row.method.name, row.method) == row.method, row.method.name
        assert row.table in TITLES
        labels = {other.label for other in rows if other.table == row.table}
        assert row.baseline is None or row.baseline in labels - {row.label}
        configs = evaluation_configs(preset, dense=Path(), single=Path())
        assert (
            set(row.evaluations)
            <= (configs.keys() | {"gradients-by-depth", "ends-labels"}) & COST_TIERS.keys() & METRICS.keys()
        )


@pytest.mark.parametrize("name", REAL)
def test_every_variant_of_the_branch_differs_from_the_defaults(name: str) -> None:
    rows = [row for row in plan_of(PRESETS[name]).rows() if row.table == "harm" and row.label.startswith("camvid: ")]
    configs = {row.label: row.method.config for row in rows}
    assert configs["camvid: default"].reconstruction == RunConfig().reconstruction
    changed = [replace(config, out="") for config in configs.values()]
    assert all(first != second for index, first in enumerate(changed) for second in changed[:index])


def test_a_lease_measures_the_most_important_starts_first() -> None:
    ordered = tasks(plan_of(LEASE).rows())
    names = list(dict.fromkeys(task.method.name.removeprefix("camvid-") for task in ordered if task.seed == 0))
    frameworks = ("moco-v3-vit-plain", "moco-v3-vit-branch", "random-vit", "scratch-vit", "dinov2-vit-plain")
    assert tuple(names[:7]) == (*frameworks, "dinov2-vit-branch", "pixels-vit-alone")
    assert {task.seed for task in ordered} == {0, 1}
    assert {task.table for task in ordered} == {"camvid", "harm", "ends", "cifar10"}
