"""Detection as a whole, on any encoder: it runs, learns, resumes exactly and is scored."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from repre.data.scenes import Scenes, ScenesConfig
from repre.data.tools.write import write_scenes
from repre.errors import UserError
from repre.evaluation.detection.detect import DetectConfig, run
from repre.evaluation.fit import FitConfig
from repre.evaluation.options import RuntimeOptions
from repre.models.encoder import EncoderConfig
from repre.models.resolve import ResolvedEncoder
from repre.utils.signals import Interrupted
from tests.evaluation.tiny_eval import count_steps, trained_weights
from tests.tiny import ENCODERS

KINDS = ENCODERS | {"convnext": EncoderConfig(name="convnext_atto", image_size=64)}
FIT = FitConfig(epochs=1, batch_size=2, lr=1e-3, layer_decay=1.0, drop_path=0.0)
QUICK = DetectConfig(
    data="scenes:4:48", width=16, fit=FIT, runtime=RuntimeOptions(device="cpu", workers=0, batch=4), seed=1
)


def encoder(kind: str = "vit") -> ResolvedEncoder:
    return ResolvedEncoder(f"random:{kind}", KINDS[kind], None)


@pytest.fixture(autouse=True)
def few_test_images(monkeypatch: pytest.MonkeyPatch) -> None:
    def four(scenes: Scenes, *, dense: bool = False) -> Scenes:
        return Scenes(4, config=scenes.config, split="val")

    monkeypatch.setattr(Scenes, "held_out", four)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frozen", [False, True])
def test_every_encoder_goes_through(kind: str, frozen: bool, tmp_path: Path) -> None:
    config = replace(QUICK, frozen=frozen, save_predictions=2, score_threshold=0.0)
    result = run(encoder(kind), config, work_dir=tmp_path)
    assert result.main == "box_ap"
    assert {"box_ap", "box_ap50", "mask_ap", "mask_ap50"} <= set(result.metrics)
    assert all(0 <= value <= 1 for value in result.metrics.values())
    assert len(list((tmp_path / "predictions").glob("*.png"))) == 2
    json.dumps(result.details)


def test_the_range_of_pixels_comes_from_the_encoder_or_the_config() -> None:
    declared = replace(encoder(), value_range=(0.0, 510.0))
    by_encoder, by_config, neither = (
        run(resolved, config).details["fit"]
        for resolved, config in (
            (declared, QUICK),
            (encoder(), replace(QUICK, value_range=(0.0, 510.0))),
            (encoder(), QUICK),
        )
    )
    assert by_encoder["loss"] == by_config["loss"] != neither["loss"]


def test_the_same_seed_gives_the_same_metrics() -> None:
    first, second = (run(encoder(), QUICK) for _ in range(2))
    assert first.metrics == second.metrics
    assert first.details["fit"]["loss"] == second.details["fit"]["loss"]


def test_windowed_attention_and_several_sizes_and_boxes_alone() -> None:
    config = replace(QUICK, attention="windowed", window=4, sizes=(0.8, 1.25), masks=False)
    result = run(encoder(), config)
    assert "box_ap" in result.metrics
    assert "mask_ap" not in result.metrics


@pytest.mark.slow
def test_a_few_scenes_are_learned_by_heart(tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", {"train": 4, "val": 1}, config=ScenesConfig(size=48))
    train = tmp_path / "scenes" / "train"
    spec = f"coco:{train / 'images'},{train / 'annotations.json'}"
    few, many = (
        run(
            encoder(),
            replace(QUICK, data=spec, test=spec, width=32, fit=replace(FIT, epochs=epochs, batch_size=4, lr=2e-3)),
        )
        for epochs in (1, 60)
    )
    assert few.metrics["box_ap50"] < 0.1
    assert many.metrics["box_ap50"] > 0.5


@pytest.mark.slow
def test_a_stopped_training_resumes_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(QUICK, fit=replace(FIT, epochs=2))
    expected = run(encoder(), config, work_dir=tmp_path / "uninterrupted")
    steps = count_steps(monkeypatch)
    steps.stop_at = 3
    with pytest.raises(Interrupted, match="stopped at step 3 of 4"):
        run(encoder(), config, work_dir=tmp_path / "stopped")
    resumed = run(encoder(), config, work_dir=tmp_path / "stopped")
    assert steps.count == 4
    assert resumed.metrics == expected.metrics
    weights, resumed_weights = (trained_weights(tmp_path / name) for name in ("uninterrupted", "stopped"))
    assert weights.keys() == resumed_weights.keys()
    for name, weight in weights.items():
        assert torch.equal(weight, resumed_weights[name]), name


def test_every_label_fraction_has_its_metrics() -> None:
    result = run(encoder(), replace(QUICK, label_fraction=(0.5, 1.0)))
    assert {"box_ap", "box_ap@0.5"} <= set(result.metrics)
    assert result.details["fit@0.5"]["images"] == 2
    assert result.details["fit"]["images"] == 4


def test_images_of_any_size(tmp_path: Path) -> None:
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 5, "name": "thing"}]}
    for i, (width, height) in enumerate([(50, 40), (40, 64), (33, 47), (60, 60)]):
        Image.new("RGB", (width, height), (40 * i, 80, 20)).save(tmp_path / f"{i}.png")
        content["images"].append({"id": i, "file_name": f"{i}.png", "width": width, "height": height})
        content["annotations"].append({"id": i, "image_id": i, "category_id": 5, "bbox": [5, 6, 20, 18], "iscrowd": 0})
    (tmp_path / "a.json").write_text(json.dumps(content))
    spec = f"coco:{tmp_path},{tmp_path / 'a.json'}"
    result = run(encoder(), replace(QUICK, data=spec, test=spec))
    assert result.details["test_images"] == 4
    assert result.details["train_images"] == 4


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 8}, "detect.size"),
        ({"sizes": (2.0, 1.0)}, "detect.sizes"),
        ({"width": 4}, "detect.width"),
        ({"attention": "local"}, "detect.attention must be one of global, windowed"),
        ({"label_fraction": (0.0,)}, "label_fraction"),
        ({"anchor": 0.0}, "detect.anchor"),
        ({"score_threshold": 2.0}, "detect.score_threshold"),
        ({"save_predictions": -1}, "detect.save_predictions"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DetectConfig(**wrong)


def test_predictions_need_a_folder_and_images_three_channels() -> None:
    with pytest.raises(UserError, match="needs work_dir"):
        run(encoder(), replace(QUICK, save_predictions=1))
    gray = ResolvedEncoder("gray", replace(KINDS["vit"], channels=1), None)
    with pytest.raises(UserError, match="three channels, but gray takes 1"):
        run(gray, QUICK)
