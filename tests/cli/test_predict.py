"""`repre predict`, and models on the command line: kept by `repre eval`, exported by `repre export`."""

import csv
import json
from pathlib import Path

import pytest

from tests.cli.conftest import Repre

RUNTIME = ("--runtime.workers", 0, "--runtime.device", "cpu")


def evaluate(repre: Repre, run: Path, *arguments: object) -> tuple[Path, str]:
    """The result of a linear classifier on scenes, and what was printed."""
    code, printed, err = repre(
        "eval", "linear", "--encoder", run, "--data", "scenes:30:32", "--steps", 5, *RUNTIME, *arguments
    )
    assert code == 0, err
    (path,) = (run / "evaluations").glob("linear-*.json")
    return path, printed


def accuracy(path: Path) -> str:
    """The accuracy of a result in percent."""
    return f"{100 * json.loads(path.read_text())['metrics']['accuracy']:.2f} %"


def test_a_fitted_model_predicts_a_folder(repre: Repre, run_copy: Path, photos: Path, tmp_path: Path) -> None:
    path, printed = evaluate(repre, run_copy)
    assert f"predict with it: repre predict --model {path} IMAGES --out FOLDER" in printed
    out = tmp_path / "out"
    command = ("predict", "--model", path, photos, "--out", out, "--top", 2, *RUNTIME)
    code, printed, err = repre(*command)
    assert code == 0, err
    assert (
        printed
        == f"model: linear, accuracy {accuracy(path)}\n16 images predicted; written to {out / 'predictions.csv'}\n"
    )
    with open(out / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {Path(row["path"]) for row in rows} == set(photos.iterdir())
    assert repre(*command)[1].startswith(f"{out} is already complete\n16 images predicted")
    code, _, err = repre(*command, "--threshold", 0.1)
    assert code == 2
    assert "options.threshold: 0.1 here, 0.5 there" in err
    some = ("predict", "--model", path, photos / "1.jpg", photos / "2.jpg", "--out", tmp_path / "two", *RUNTIME)
    said = repre(*some)[1]
    assert said.startswith("model: ")
    assert "\n2 images predicted" in said
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    mixed = ("predict", "--model", path, photos / "1.jpg", tmp_path / "bad.jpg", "--out", tmp_path / "mixed", *RUNTIME)
    assert f"1 file could not be read; see {tmp_path / 'mixed' / 'unreadable.txt'}" in repre(*mixed)[1]


def test_a_model_is_not_kept_if_it_is_not_wanted(repre: Repre, run_copy: Path) -> None:
    path, printed = evaluate(repre, run_copy, "--no-keep-model")
    assert "predict with it" not in printed
    assert not path.with_suffix("").exists()
    code, _, err = repre("predict", "--model", path, "photos")
    assert code == 2
    assert "was not saved" in err


@pytest.mark.slow
def test_a_fitted_model_is_exported_beside_its_result(repre: Repre, run_copy: Path) -> None:
    path, _ = evaluate(repre, run_copy)
    code, printed, err = repre("export", "--model", path, "--to", "torch-export")
    assert code == 0, err
    folder = path.with_suffix("") / "exports" / "torch-export"
    assert f"written to {folder}; largest difference" in printed
    assert sorted(file.name for file in folder.iterdir()) == ["export.json", "model.json", "model.pt2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("predict", "photos"), "--model"),
        (("predict", "--model", "nowhere", "photos"), "there is no fitted model"),
        (("predict", "--model", "nowhere"), "predict needs images"),
        (("predict", "--model", "nowhere", "photos", "--top", "0"), "--top must be at least 1"),
        (("export", "--model", "a", "--encoder", "b"), "either an encoder (--encoder) or a fitted model (--model)"),
        (("export", "--model", "nowhere"), "there is no fitted model"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], message: str, repre: Repre) -> None:
    code, out, err = repre(*arguments)
    assert (code, out) == (2, "")
    assert message.lower() in err.lower()
