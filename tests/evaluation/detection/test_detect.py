"""Mask R-CNN on any encoder: it trains, learns by heart, goes on exactly after a stop, and is scored."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from repre.data.labels.boxes import Objects, RangedBoxes, open_boxes
from repre.errors import UserError
from repre.evaluation.detection import detect
from repre.evaluation.detection.detect import DetectConfig, Steps, build, run
from repre.evaluation.fit import FitConfig
from repre.evaluation.options import RuntimeOptions
from repre.models.encoder import EncoderConfig
from repre.models.resolve import ResolvedEncoder
from repre.utils.signals import Interrupted
from tests.tiny import ENCODERS

pytest.importorskip("faster_coco_eval")

KINDS = ENCODERS | {"convnext": EncoderConfig(name="convnext_atto", image_size=64)}
FIT = FitConfig(epochs=1, batch_size=2, lr=1e-3, layer_decay=1.0, drop_path=0.0)
QUICK = DetectConfig(
    data="scenes:4:48", width=16, fit=FIT, runtime=RuntimeOptions(device="cpu", workers=0, batch=4), seed=1
)


def start(kind: str = "vit") -> ResolvedEncoder:
    return ResolvedEncoder(f"random:{kind}", KINDS[kind], None)


@pytest.fixture(autouse=True)
def few_test_images(monkeypatch: pytest.MonkeyPatch) -> None:
    real = detect.open_boxes

    def fewer(spec: str, *, split: str = "train", **more: Any) -> Any:
        found = real(spec, split=split, **more)
        if spec.startswith("scenes") and split == "val":
            (found.source if isinstance(found, RangedBoxes) else found).scenes.count = 4
        return found

    monkeypatch.setattr(detect, "open_boxes", fewer)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frozen", [False, True])
def test_every_encoder_goes_through(kind: str, frozen: bool, tmp_path: Path) -> None:
    result = run(start(kind), replace(QUICK, frozen=frozen, save_predictions=2, score_threshold=0.0), work=tmp_path)
    assert result.main == "box_ap"
    assert {"box_ap", "box_ap50", "mask_ap", "mask_ap50"} <= set(result.metrics)
    assert all(0 <= value <= 1 for value in result.metrics.values())
    assert len(list((tmp_path / "predictions").glob("*.png"))) == 2
    json.dumps(result.details)


def test_the_range_of_pixels_comes_from_the_encoder_or_the_config() -> None:
    known = replace(start(), value_range=(0.0, 510.0))
    by_encoder, by_config, neither = (
        run(which, config).details["fit"]
        for which, config in (
            (known, QUICK),
            (start(), replace(QUICK, value_range=(0.0, 510.0))),
            (start(), QUICK),
        )
    )
    assert by_encoder["loss"] == by_config["loss"] != neither["loss"]


def test_the_same_seed_gives_the_same_figures() -> None:
    one, other = (run(start(), QUICK) for _ in range(2))
    assert one.metrics == other.metrics
    assert one.details["fit"]["loss"] == other.details["fit"]["loss"]


def test_windowed_attention_and_several_sizes_and_boxes_alone() -> None:
    config = replace(QUICK, attention="windowed", window=4, sizes=(0.8, 1.25), masks=False)
    result = run(start(), config)
    assert "box_ap" in result.metrics
    assert "mask_ap" not in result.metrics


def test_a_few_scenes_are_learned_by_heart() -> None:
    config = replace(QUICK, data="scenes:4:48", fit=replace(FIT, epochs=60, batch_size=4, lr=2e-3), width=32)
    source = open_boxes(config.data)
    model = build(start(), config, source)
    before, _ = detect._test(model, source, config, work=None)
    detect._train(model, source, [0, 1, 2, 3], start(), config, work=None, share=1.0)
    after, _ = detect._test(model, source, config, work=None)
    assert before["box_ap50"] < 0.1
    assert after["box_ap50"] > 0.5


def test_stopped_and_called_again_it_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, source = replace(QUICK, fit=replace(FIT, epochs=2)), open_boxes(QUICK.data)

    def train(work: Path | None) -> detect.Detector:
        model = build(start(), config, source)
        detect._train(model, source, [0, 1, 2, 3], start(), config, work=work, share=1.0)
        return model

    whole = train(None)
    real = Steps.__getitem__

    def stops(self: Steps, step: int) -> list[Objects] | UserError:
        if step == 2:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Steps, "__getitem__", stops)
        with pytest.raises(Interrupted):
            train(tmp_path)
    again = train(tmp_path)
    for (name, one), (_, other) in zip(whole.state_dict().items(), again.state_dict().items()):
        assert torch.equal(one, other), name


def test_a_flip_moves_boxes_and_masks_with_the_image() -> None:
    source = open_boxes("scenes:8:48")
    one = source.load(0)
    turned = detect._flipped(one)
    assert np.array_equal(turned.image[:, ::-1], one.image)
    for (left, top, right, bottom), mask in zip(turned.boxes, turned.masks):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert (left, top, right, bottom) == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    flips = [
        not np.array_equal(found.image, source.load(int(i)).image)
        for step in range(8)
        for i, found in zip(
            detect.epoch_order(8, seed=0, epoch=step // 2)[4 * (step % 2) : 4 * (step % 2) + 4],
            _batch(Steps(source, list(range(8)), batch=4, steps_per_epoch=2, seed=0), step),
        )
    ]
    assert 0.2 < np.mean(flips) < 0.8


def _batch(steps: Steps, number: int) -> list[Objects]:
    found = steps[number]
    assert isinstance(found, list)
    return found


def test_label_fractions_are_figures_of_their_own() -> None:
    result = run(start(), replace(QUICK, label_fraction=(0.5, 1.0)))
    assert {"box_ap", "box_ap@0.5"} <= set(result.metrics)
    assert result.details["fit@0.5"]["images"] == 2


def test_images_of_any_size(tmp_path: Path) -> None:
    from PIL import Image

    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 5, "name": "thing"}]}
    for i, (width, height) in enumerate([(50, 40), (40, 64), (33, 47), (60, 60)]):
        Image.new("RGB", (width, height), (40 * i, 80, 20)).save(tmp_path / f"{i}.png")
        content["images"].append({"id": i, "file_name": f"{i}.png", "width": width, "height": height})
        content["annotations"].append({"id": i, "image_id": i, "category_id": 5, "bbox": [5, 6, 20, 18], "iscrowd": 0})
    (tmp_path / "a.json").write_text(json.dumps(content))
    spec = f"coco:{tmp_path},{tmp_path / 'a.json'}"
    result = run(start(), replace(QUICK, data=spec, test=spec))
    assert result.details["test_images"] == 4
    assert result.details["train_images"] == 4


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"size": 8}, "detect.size"),
        ({"sizes": (2.0, 1.0)}, "detect.sizes"),
        ({"width": 4}, "detect.width"),
        ({"attention": "local"}, "global or windowed"),
        ({"label_fraction": (0.0,)}, "label_fraction"),
        ({"anchor": 0.0}, "detect.anchor"),
    ],
)
def test_settings_are_checked(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        DetectConfig(**wrong)
