"""Segmentation by nearest patches as a whole: every encoder, any image size, label fractions, bad input."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repre.errors import UserError
from repre.evaluation.runner import evaluate
from repre.evaluation.segmentation.patch_knn import PatchKNNConfig, run
from repre.models.resolve import ResolvedEncoder
from tests.evaluation.segmentation.test_segment import resolved, write_pairs
from tests.evaluation.tiny_eval import on_cpu
from tests.tiny import ENCODERS


def config(cache: Path, **more: Any) -> PatchKNNConfig:
    return PatchKNNConfig(data=more.pop("data", "scenes:8:32"), runtime=on_cpu(cache), **more)


@pytest.mark.parametrize("name", ["vit", "swin", "convnext"])
def test_every_encoder_gives_the_fields_of_segment(name: str, tmp_path: Path) -> None:
    result = run(resolved(name), config(tmp_path))
    assert set(result.metrics) == {"miou", "pixel_accuracy"}
    assert result.main == "miou"
    assert all(0 <= value <= 1 for value in result.metrics.values())
    known = [value for value in result.details["iou"].values() if value is not None]
    assert result.metrics["miou"] == pytest.approx(sum(known) / len(known))
    assert run(resolved(name), config(tmp_path)).metrics == result.metrics


def test_what_lies_in_the_memory_is_found_again(tmp_path: Path) -> None:
    """Training and test images are the same: with one neighbor and a patch per pixel nothing is wrong."""
    data = write_pairs(tmp_path / "data", count=3, size=32)
    fine = ResolvedEncoder("fine", replace(ENCODERS["vit"], patch_size=2), None)
    found = run(fine, config(tmp_path, data=data, k=1)).metrics["miou"]
    assert found > 0.7
    assert found > run(fine, config(tmp_path, data=data, k=400)).metrics["miou"]
    assert found > run(fine, config(tmp_path, data=data, k=1, memory=10)).metrics["miou"]


def test_label_fractions_and_drawn_predictions(tmp_path: Path) -> None:
    stored = evaluate(
        "patch-knn", resolved(), config(tmp_path, label_fraction=(0.25, 1.0), save_predictions=2), out=tmp_path / "out"
    )
    assert set(stored["metrics"]) == {"miou", "miou@0.25", "pixel_accuracy", "pixel_accuracy@0.25"}
    assert stored["details"]["memory@0.25"] == {"images": 2, "patches": 2 * 16}
    assert len(list((tmp_path / "out").glob("patch-knn-*/predictions/*.png"))) == 2


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_other_windows_and_levels_are_scored_at_the_size_of_the_masks(name: str, tmp_path: Path) -> None:
    data = write_pairs(tmp_path / "data", count=3, size=48, crop=(40, 48))
    values = [
        run(resolved(name), config(tmp_path, data=data, size=32, k=2, **more)).metrics["pixel_accuracy"]
        for more in ({}, {"window": "pad"}, {"short_side": 0}, {"level": 0}, {"features": "raw"})
    ]
    assert len(set(values)) >= 3
    assert min(values) > 0


def test_a_class_can_be_ignored(tmp_path: Path) -> None:
    data = write_pairs(tmp_path / "data", count=3, size=32)
    result = run(resolved(), config(tmp_path, data=data, ignore_label=("background",)))
    assert "background" not in result.details["iou"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 0}, "patch_knn.k must be at least 1"),
        ({"memory": 0}, "patch_knn.memory"),
        ({"temperature": 0.0}, "at least 0.0001"),
        ({"size": 4}, "at least 8"),
        ({"overlap": 1.0}, "overlap"),
        ({"short_side": -1}, "short_side"),
        ({"save_predictions": -1}, "save_predictions"),
        ({"label_fraction": (0.0,)}, "label_fraction"),
        ({"binary": True, "colors": "colors.txt"}, "binary"),
        ({"features": "plain"}, "normed"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PatchKNNConfig(**changes)


def test_what_does_not_fit_the_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="0 to 3"):
        run(resolved(), config(tmp_path, level=4))
    wide = ResolvedEncoder("wide", replace(ENCODERS["vit"], image_size=(32, 48)), None)
    with pytest.raises(UserError, match="--size 32"):
        run(wide, config(tmp_path))
    with pytest.raises(UserError, match="work_dir"):
        run(resolved(), config(tmp_path, save_predictions=1))
