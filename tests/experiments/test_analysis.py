"""Paired differences, means at equal seeds, pools of folds and objects, and the bootstrap."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from experiments.analysis import bootstrap, pool_objects, table_entries, without_fold
from experiments.methods import FIRST_CONFIRMATORY_SEED, Task
from experiments.plan import Plan
from experiments.presets import TOY
from experiments.runner import Runner
from experiments.tables import mean_table, pooled_folds, seed_table

from tests.experiments.fake_results import fake_results, vit_rows

T_ONE_DEGREE = 12.706
"""95 % quantile of Student's t for two seeds."""


def test_differences_are_paired_by_seed() -> None:
    results = fake_results({"foreground": {"plain": [0.50, 0.60], "branch": [0.54, 0.6401]}})
    gains = {entry.metric: entry.gain for entry in table_entries(vit_rows(), results) if entry.gain}
    assert gains["object mIoU"].mean == pytest.approx(4.005)
    assert gains["object mIoU"].half == pytest.approx(T_ONE_DEGREE * 0.01 / 2, rel=1e-3)


def test_differences_between_machines_are_marked() -> None:
    results = fake_results({"foreground": {"plain": [0.5, 0.6], "branch": [0.54, 0.64]}})
    for content in results.values():
        content["machine"] = {"processor": "A", "torch": "2.15"}
    assert "†" not in seed_table(table_entries(vit_rows(), results))
    plain = results["fresh-fashion-moco-v3-vit-plain", FIRST_CONFIRMATORY_SEED, "foreground"]
    plain["machine"] = {"processor": "B", "torch": "2.15"}
    assert "(+4.0) †" in seed_table(table_entries(vit_rows(), results))


def test_a_missing_seed_is_a_dash() -> None:
    results = fake_results({"foreground": {"plain": [0.5, 0.6], "branch": [0.54, 0.64]}})
    del results["fresh-fashion-moco-v3-vit-plain", FIRST_CONFIRMATORY_SEED, "foreground"]
    assert "| – 60.0 | 60.0 |" in seed_table(table_entries(vit_rows(), results))


def test_means_are_by_method_and_metric_and_differences_at_equal_seeds() -> None:
    values = {"foreground": {"plain": [0.5, 0.6], "branch": [0.54]}, "knn": {"plain": [0.3], "branch": []}}
    assert mean_table(table_entries(vit_rows(), fake_results(values))).splitlines() == [
        "| mean (seeds), difference at equal seeds | object mIoU | k-NN |",
        "|---|---|---|",
        "| moco-v3 + vit | 55.0 (2) | 30.0 (1) |",
        "| moco-v3 + vit + branch | 54.0 (1), +4.0 | – |",  # at the first seed, where plain has 50
    ]


@pytest.mark.slow
def test_counts_by_object_sum_to_the_k_nn_result(measured: tuple[Runner, list[Task]]) -> None:
    runner, tasks = measured
    records = runner.store.read(next(task.method.name for task in tasks if task.evaluation == "objects"))
    knn, by_object = (records[0, name] for name in ("knn", "objects"))
    assert by_object["metrics"]["knn20"] == pytest.approx(knn["metrics"]["knn20"])
    assert sum(count for _, count in by_object["details"]["objects"].values()) == TOY.test


def test_the_bootstrap_resamples_objects_not_images() -> None:
    rng = np.random.default_rng(0)
    baseline = {f"o{n}": (int(rng.integers(4)), 10) for n in range(40)}
    even = {name: (correct + 2, count) for name, (correct, count) in baseline.items()}
    assert bootstrap(even, baseline) == pytest.approx((20.0, 20.0, 20.0))  # every object gains the same: no spread
    uneven = {name: (correct + 4 * (n % 2), 10) for n, (name, (correct, _)) in enumerate(baseline.items())}
    mean, low, high = bootstrap(uneven, baseline)
    assert mean == pytest.approx(20.0)
    spread = 40 * 0.5 / 40**0.5  # standard error of the mean of 40 objects that gain 0 or 40 points
    assert (low, high) == pytest.approx((20 - 1.96 * spread, 20 + 1.96 * spread), abs=1.0)


def test_objects_are_pooled_over_complete_pairs_only() -> None:
    rows = [row for row in Plan(replace(TOY, folds=(0, 1))).stamps() if "vit" in row.label]
    results: dict[tuple[str, int, str], Any] = {}
    for row, correct in zip(rows, (1, 2, 3, 4)):
        results[row.method.name, 0, "objects"] = {"details": {"objects": {f"o{row.label[-1]}": [correct, 5]}}}
    assert [without_fold(row.label) for row in rows] == ["moco-v3 + vit", "moco-v3 + vit + branch"] * 2
    del results[rows[3].method.name, 0, "objects"]  # without its partner the second plain method does not count either
    pools = pool_objects(rows, results)
    assert {label: sum(correct for correct, _ in pool.values()) for label, pool in pools.items()} == {
        "moco-v3 + vit": 1,
        "moco-v3 + vit + branch": 2,
    }


def test_each_fold_counts_once() -> None:
    rows = [row for row in Plan(replace(TOY, folds=(0, 1))).stamps() if "vit" in row.label]
    values = (0.3, 0.32, 0.4, 0.46)
    results = {(row.method.name, 0, "knn"): {"metrics": {"knn20": value}} for row, value in zip(rows, values)}
    half = T_ONE_DEGREE * 2  # two folds, 2 points on either side of their mean
    assert pooled_folds(table_entries(rows, results)).splitlines()[-1] == (
        f"- moco-v3 + vit + branch: k-NN +4.0 [{4 - half:+.1f}, {4 + half:+.1f}] (2)"
    )
