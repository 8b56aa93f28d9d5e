"""The files of results: what is written is read again, no process loses what another one wrote, and files stay small."""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from experiments.analysis import load_failures, load_results, load_trainings
from experiments.results_store import FAILURE, TRAINING, ResultsStore, file_text
from experiments.run import RESULTS

from repre.errors import UserError

MACHINE = {"processor": "A", "torch": "2.15"}


def record(seed: int, **values: Any) -> dict[str, Any]:
    """A result with a config of this seed."""
    return {"metrics": {"knn20": 0.5}, "config": {"k": [10, 20], "seed": seed}, "machine": MACHINE, **values}


def without_seed(content: dict[str, Any]) -> dict[str, Any]:
    return content | {"config": {name: value for name, value in content["config"].items() if name != "seed"}}


def test_records_are_read_as_they_were_written_with_shared_parts_once(tmp_path: Path) -> None:
    store = ResultsStore(tmp_path / "cpu")
    assert (store.methods(), store.read("vit-mask0.4"), store.get("vit-mask0.4", 0, "knn")) == ([], {}, None)
    other = record(
        11, config={"k": [1], "seed": 11}, machine=MACHINE | {"torch": "2.16"}, details={"objects": {"a": [1, 2]}}
    )
    written = {(11, "knn"): other, (2, "knn"): record(2), (2, TRAINING): {"weights": "ab"}, (10, "knn"): record(10)}
    for (seed, name), each in written.items():
        store.put("vit-mask0.4", seed, name, each)
    assert store.methods() == ["vit-mask0.4"]
    assert store.read("vit-mask0.4") == {
        key: without_seed(each) if "config" in each else each for key, each in written.items()
    }
    content = json.loads(store.path("vit-mask0.4").read_text())
    assert {name: list(by_name) for name, by_name in content["seeds"].items()} == {
        "2": [TRAINING, "knn"], "10": ["knn"], "11": ["knn"],
    }  # fmt: skip
    assert [len(content[part]) for part in ("configs", "machines")] == [2, 2]  # of three records

    store.put("vit-mask0.4", 11, "knn", record(11))  # also removes what only the old record used
    store.remove("vit-mask0.4", 2, TRAINING)
    before = store.path("vit-mask0.4").stat().st_mtime_ns
    store.remove("vit-mask0.4", 2, FAILURE)  # there is none
    assert store.path("vit-mask0.4").stat().st_mtime_ns == before
    content = json.loads(store.path("vit-mask0.4").read_text())
    assert [len(content[part]) for part in ("configs", "machines")] == [1, 1]
    assert list(content["seeds"]["2"]) == ["knn"]
    assert [path.name for path in store.folder.iterdir()] == ["vit-mask0.4.json"]  # no lock, no half a file


def test_a_record_is_a_line_and_a_long_config_a_line_per_section() -> None:
    long = {"views": {"a": "x" * 600}, "optim": {"b": "y" * 600}, "seed": 0}
    lines = file_text({(0, "knn"): record(0), (0, TRAINING): {"config": long, "final": {"loss": 1.0}}}).splitlines()
    assert [line.split(":")[0].strip(' {}"') for line in lines[:5]] == ["", "seeds", "0", TRAINING, "knn"]
    assert sum(line.startswith(('   "views": {"a": "xx', '   "optim": {"b": "yy')) for line in lines) == 2
    assert sum(line.endswith(': {"k": [10, 20]}') for line in lines) == 1


def test_the_loaders_of_the_tables_tell_trainings_failures_results_and_stale_results_apart(tmp_path: Path) -> None:
    store = ResultsStore(tmp_path)
    for seed, weights in ((0, "ab"), (1, "cd")):
        store.put("vit", seed, TRAINING, {"weights": "ab", "seconds": 1.0})
        store.put("vit", seed, "knn", record(seed, weights=weights))
    store.put("random", 0, "knn", record(0, weights=None))  # without a training
    store.put("swin", 3, FAILURE, {"failure": "the loss is not finite", "machine": MACHINE})
    assert sorted(load_results(tmp_path)) == [("random", 0, "knn"), ("vit", 0, "knn")]
    assert sorted(load_trainings(tmp_path)) == [("vit", 0), ("vit", 1)]
    failed = {"method": "swin", "seed": 3, "failure": "the loss is not finite", "machine": MACHINE}
    assert load_failures(tmp_path) == [failed]


def test_processes_that_write_one_file_at_once_lose_nothing(tmp_path: Path) -> None:
    def write(seed: int) -> None:
        for number in range(8):
            ResultsStore(tmp_path).put("vit", seed, f"evaluation{number}", record(seed))

    processes = [multiprocessing.get_context("fork").Process(target=write, args=(seed,)) for seed in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(ResultsStore(tmp_path).read("vit")) == 3 * 8


@pytest.mark.parametrize("damage", ["<<<<<<< HEAD\n{}", '{"seeds": {"0": {"knn": {"config": "ab"}}}}', "[]"])
def test_a_damaged_file_is_named_and_not_written_over(damage: str, tmp_path: Path) -> None:
    store = ResultsStore(tmp_path)
    store.path("vit").write_text(damage)
    for action in (lambda: store.read("vit"), lambda: store.put("vit", 0, "knn", record(0))):
        with pytest.raises(UserError, match=r"vit\.json is damaged .* restore it from git, or move it away"):
            action()
    assert store.path("vit").read_text() == damage


def test_the_stored_files_are_what_the_store_writes_and_small() -> None:
    stores = [ResultsStore(folder) for folder in RESULTS.iterdir() if folder.is_dir()]
    assert not [folder for store in stores for folder in store.folder.iterdir() if folder.is_dir()]
    methods = [(store, method) for store in stores for method in store.methods()]
    assert methods
    for store, method in methods:
        text = store.path(method).read_text()
        assert text == file_text(store.read(method))
        assert len(text) < 32_000, f"{method}: are there details that no table reads?"
