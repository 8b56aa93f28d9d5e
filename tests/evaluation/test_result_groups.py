"""What may be averaged: the same evaluation, settings, data, encoder and weights, each seed once."""

from typing import Any

import pytest

from repre.data.labels.same_images import SAME_IMAGES
from repre.evaluation.result_groups import distinguish, group_results, is_tested_on_training, paired


def result(seed: int = 0, value: float = 0.5, **changes: Any) -> dict[str, Any]:
    content = {"format": 1, "evaluation": "knn", "main": "knn20", "metrics": {"knn20": value}, "seed": seed, "start": "a",
               "encoder": {"name": "vit", "weights": "w", "allow_partial": False}, "pixels": {"mean": [0.5], "std": [0.5]},
               "config": {"data": "birds", "k": [20], "seed": seed},
               "details": {"data_identity": "i", "size": [32, 32], "train_images": 80, "test_images": 20}}  # fmt: skip
    return content | changes


CHANGES: dict[str, dict[str, Any]] = {
    "evaluation": {"evaluation": "linear"},
    "main metric": {"main": "knn10", "metrics": {"knn10": 0.5}},
    "setting": {"config": {"data": "birds", "k": [10, 20]}},
    "files of the data": {"details": {"data_identity": "j", "size": [32, 32], "train_images": 80, "test_images": 20}},
    "number of images": {"details": {"data_identity": "i", "size": [32, 32], "train_images": 80, "test_images": 21}},
    "size": {"details": {"data_identity": "i", "size": [64, 64], "train_images": 80, "test_images": 20}},
    "normalization": {"pixels": {"mean": [0.4], "std": [0.5]}},
    "architecture": {"encoder": {"name": "vit", "weights": "w", "out_indices": [1]}},
    "weights": {"encoder": {"name": "vit", "weights": "v"}},
    "no hash": {"encoder": {"name": "vit"}},
    "format": {"format": 2},
}


@pytest.mark.parametrize("change", CHANGES)
def test_results_that_differ_in_more_than_the_seed_are_apart(change: str) -> None:
    groups = group_results([result(0), result(1), result(2, **CHANGES[change])])
    assert sorted(group.seeds for group in groups) == [[0, 1], [2]]


def test_what_changes_no_metric_is_no_difference() -> None:
    """The seed twice, partial loading, the path that the user gave to the same files."""
    same = [
        result(0, 0.4),
        result(0, 0.4, encoder={"name": "vit", "weights": "w", "allow_partial": True}),
        result(1, 0.6, start="b", config={"data": "../birds/", "k": [20]}),
    ]
    (group,) = group_results(same)
    assert (group.seeds, group.mean, group.conflicts) == ([0, 1], 0.5, [])


def test_without_a_record_of_the_files_the_names_of_the_data_count() -> None:
    bare = [result(seed, details={}, config={"data": data}) for seed, data in enumerate(("birds", "fish"))]
    assert len(group_results(bare)) == 2


def test_values_that_are_no_numbers_are_in_no_mean() -> None:
    (group,) = group_results([result(0, float("nan")), result(1, 0.5), result(2, float("inf"))])
    assert (group.seeds, group.mean, group.not_numbers) == ([1], 0.5, [0, 2])
    assert group_results([result(0, float("nan"))]) == []


def test_pairs_have_equal_seeds() -> None:
    random = {"encoder": {"name": "vit", "weights": "random"}}
    (mine,) = group_results([result(seed, 0.1 * seed) for seed in (1, 2, 3)])
    baselines = group_results([result(seed, 0.01 * seed, **random) for seed in (2, 3, 4)])
    assert paired(mine, baselines, "knn20") == [(0.2, 0.02), (pytest.approx(0.3), 0.03)]
    assert paired(mine, baselines, "knn10") == []


def test_groups_name_what_tells_them_apart() -> None:
    groups = group_results([result(0), result(0, config={"data": "birds", "k": [5, 20], "fit": {"lr": 1.0}})])
    assert sorted(distinguish(groups)) == ["k 20, fit.lr not recorded", "k 5 20, fit.lr 1.0"]


@pytest.mark.parametrize(("notes", "said"), [([SAME_IMAGES], True), (["other"], False), (None, False)])
def test_a_test_on_the_training_images_is_known(notes: Any, said: bool) -> None:
    assert is_tested_on_training(result(details={"notes": notes})) == said
