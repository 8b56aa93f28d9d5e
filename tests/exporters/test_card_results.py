"""The results in a model card are those of the exported weights, with data, settings and seeds, and without paths."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from repre.evaluation.registry import evaluation
from repre.exporters.card_results import result_table
from repre.exporters.model_card import model_card
from repre.models.encoder import Encoder
from repre.models.resolve import resolve_encoder
from repre.models.timm_folder import save_encoder
from tests.tiny import ENCODERS


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with an exported encoder; `config.yaml` is not read here."""
    folder = tmp_path / "secret-customer"
    torch.manual_seed(0)
    save_encoder(Encoder(ENCODERS["vit"]), folder / "encoder")
    (folder / "config.yaml").write_text("")
    return folder


def add(
    run: Path, metrics: dict[str, float], *, name: str = "knn", seed: int = 0, weights: str = "", **config: Any
) -> None:
    """Stores a result of these weights, or of others; `config` are settings that are not the defaults."""
    settings = json.loads(json.dumps(vars(evaluation(name).config()), default=lambda value: vars(value)))
    found = weights or resolve_encoder(str(run)).fingerprint
    result = {"format": 1, "evaluation": name, "main": next(iter(metrics)), "metrics": metrics, "seed": seed,
              "encoder": {"weights": found}, "config": settings | config | {"seed": seed}, "higher_is_better": True,
              "details": {"train_images": 90, "test_images": 32, "size": [32, 32]}, "start": "secret"}  # fmt: skip
    folder = run / "evaluations" / ("random-init" if weights == "random" else "")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}-{len(list(folder.iterdir()))}.json").write_text(json.dumps(result))


def table(run: Path) -> list[list[str]]:
    """The cells of the lines below the head."""
    lines = result_table(resolve_encoder(str(run)))
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines[2:]]


def test_only_the_exported_weights_count_and_everything_is_named(run: Path) -> None:
    """Several seeds of k-NN, other settings, segmentation of two own data sets, and results of other weights."""
    for seed, (value, base) in enumerate(((0.50, 0.40), (0.54, 0.41), (0.52, 0.45))):
        add(run, {"knn20": value}, seed=seed, data="scenes:64:32")
        add(run, {"knn20": base}, seed=seed, data="scenes:64:32", weights="random")
    add(run, {"knn20": 0.25}, weights="of best.pt", data="scenes:64:32")
    add(run, {"knn20": 0.61}, data="scenes:64:32", crop_pct=0.9)
    for data in ("secret-a/", "secret-b/"):
        add(run, {"miou": 0.2, "pixel_accuracy": 0.7}, name="segment", data=f"pairs:{data}", head="upernet")
    (run / "evaluations" / "broken.json").write_text("{")
    rows = table(run)
    scenes = "scenes:64:32 (90 to train and 32 to test)"
    assert rows[0] == ["knn", scenes, "32 px", "0, 1, 2", "knn20", "52.00 % ± 2.00 %", "+10.00 ± 7.45 (3 pairs)"]
    assert rows[1][:6] == ["knn", scenes, "32 px, crop_pct 0.9", "0", "knn20", "61.00 %"]
    assert {(row[1][:10], row[2][:19], row[4], row[5]) for row in rows[2:]} == {
        (data, "32 px, head upernet", metric, value)
        for data in ("own data A", "own data B")
        for metric, value in (("miou", "20.00 %"), ("pixel_accuracy", "70.00 %"))
    }
    assert "secret" not in str(rows)
    assert "25.00" not in str(rows)


def test_a_metric_that_was_not_measured_is_not_in_the_card(run: Path) -> None:
    """Boxes without outlines have no mask AP; a value that is no number is none."""
    add(run, {"box_ap": 0.3, "mask_ap": float("nan")}, name="detect", data="coco:secret")
    assert [row[4:6] for row in table(run)] == [["box_ap", "30.00 %"]]


def test_the_encoder_folder_of_a_run_has_the_results_of_the_run(run: Path) -> None:
    add(run, {"knn20": 0.5}, data="cifar10:secret")
    assert result_table(resolve_encoder(str(run / "encoder"))) == result_table(resolve_encoder(str(run)))
    assert table(run)[0][1] == "cifar10 (90 to train and 32 to test)"


def test_random_weights_have_no_results(run: Path) -> None:
    add(run, {"knn20": 0.5}, data="scenes", weights="random")
    resolved = resolve_encoder(f"random:{run}")
    assert result_table(resolved) == []
    assert "## Evaluations" not in model_card(resolved.build(), resolved)
