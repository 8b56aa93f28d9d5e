"""Segmentation as a whole on tiny encoders: both heads, frozen or not, any image size, exact resume, bad input."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from repre.data.labels.masks import IGNORE, open_masks
from repre.data.labels.windows import WindowsConfig, cut, merge, plan
from repre.errors import UserError
from repre.evaluation.fit import FitConfig
from repre.evaluation.options import RuntimeOptions
from repre.evaluation.runner import evaluate
from repre.evaluation.segmentation.miou import Confusion
from repre.evaluation.segmentation.segment import SegmentConfig, open_train_and_test, run
from repre.evaluation.segmentation.segmenter import class_map
from repre.models.encoder import Encoder, EncoderConfig
from repre.models.resolve import ResolvedEncoder, resolve_encoder
from repre.models.timm_folder import save_encoder
from repre.utils.signals import Interrupted
from tests.evaluation.tiny_eval import count_steps, trained_weights
from tests.tiny import ENCODERS

TINY = {
    **ENCODERS,
    "convnext": EncoderConfig(
        name="convnext_atto", image_size=64, model_args={"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 24)}
    ),
}
HEADS = [("linear", None), ("linear", False), ("upernet", None), ("upernet", True)]


def resolved(name: str = "vit") -> ResolvedEncoder:
    return ResolvedEncoder(f"random:{name}", TINY[name], None)


def scattered(resolved: ResolvedEncoder, folder: Path) -> ResolvedEncoder:
    """The encoder with weights whose final norm changes more than the scale of a map."""
    encoder, generator = resolved.build(seed=0), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    save_encoder(encoder, folder / "encoder")
    return resolve_encoder(str(folder / "encoder"))


def config(cache: Path, *, epochs: int = 2, lr: float = 3e-3, drop_path: float = 0.1, **more: Any) -> SegmentConfig:
    return SegmentConfig(
        data=more.pop("data", "scenes:8:32"),
        width=16,
        fit=FitConfig(epochs=epochs, batch_size=4, lr=lr, drop_path=drop_path),
        runtime=more.pop("runtime", RuntimeOptions(device="cpu", workers=0, cache=cache)),
        **more,
    )


def write_pairs(root: Path, *, count: int, size: int, crop: tuple[int, int] | None = None) -> str:
    """Scenes as files; training and validation images are the same ones."""
    source = open_masks(f"scenes:{count}:{size}")
    height, width = crop or (size, size)
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for index in range(count):
            image, mask = source.load(index)
            Image.fromarray(image[:height, :width]).save(root / "images" / split / f"{index}.png")
            Image.fromarray(mask[:height, :width]).save(root / "masks" / split / f"{index}.png")
    (root / "classes.txt").write_text("\n".join(source.classes))
    return f"pairs:{root}/images,{root}/masks"


@pytest.mark.parametrize("name", list(TINY))
@pytest.mark.parametrize(("head", "frozen"), HEADS, ids=["linear", "linear-tuned", "upernet", "upernet-frozen"])
def test_every_encoder_goes_through_every_head(name: str, head: str, frozen: bool | None, tmp_path: Path) -> None:
    settings = config(tmp_path, epochs=1, head=head, frozen=frozen)
    result = run(resolved(name), settings)
    assert set(result.metrics) == {"miou", "pixel_accuracy"}
    assert all(0 <= value <= 1 for value in result.metrics.values())
    assert result.main == "miou"
    known = [value for value in result.details["iou"].values() if value is not None]
    assert result.metrics["miou"] == pytest.approx(sum(known) / len(known))
    assert list(result.details["iou"])[:2] == ["background", "disc"]
    assert run(resolved(name), settings).metrics == result.metrics  # the same seed gives the same metrics


@pytest.mark.parametrize("head", ["linear", "upernet"])
def test_workers_change_nothing_and_bf16_little(head: str, tmp_path: Path) -> None:
    options = RuntimeOptions(device="cpu", workers=0, cache=tmp_path / "here")
    plain, spread, low = (
        run(resolved(), config(tmp_path, head=head, runtime=runtime))
        for runtime in (
            options,
            replace(options, workers=2, cache=tmp_path / "there"),
            replace(options, precision="bf16", cache=tmp_path / "low"),
        )
    )
    assert spread.metrics == plain.metrics
    assert spread.details["fit"]["loss"] == plain.details["fit"]["loss"]
    assert low.details["fit"]["loss"] == pytest.approx(plain.details["fit"]["loss"], rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("head", "lr"), [("upernet", 1e-2), ("linear", 3e-2)])
def test_a_handful_of_scenes_is_learned_by_heart(head: str, lr: float, tmp_path: Path) -> None:
    data = write_pairs(tmp_path / "data", count=3, size=32)
    encoder = replace(TINY["vit"], patch_size=4) if head == "upernet" else TINY["swin"]
    small = {"data": data, "head": head, "size": 32, "lr": lr, "drop_path": 0.0}
    few, many = (
        run(ResolvedEncoder("x", encoder, None), config(tmp_path, epochs=epochs, **small)).metrics["miou"]
        for epochs in (1, 150)
    )
    assert few < 0.3
    assert many > 0.5


@pytest.mark.parametrize(("head", "frozen"), [("linear", None), ("upernet", None), ("upernet", True)])
def test_a_stopped_training_resumes_to_the_same_weights(
    head: str, frozen: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(tmp_path / "cache", epochs=3, head=head, frozen=frozen, jitter=0.5)
    expected = run(resolved(), settings, work_dir=tmp_path / "uninterrupted")
    steps = count_steps(monkeypatch)
    steps.stop_at = 4
    with pytest.raises(Interrupted):
        run(resolved(), settings, work_dir=tmp_path / "stopped")
    resumed = run(resolved(), settings, work_dir=tmp_path / "stopped")
    assert steps.count == 6  # three epochs of two steps, each once
    assert resumed.metrics == expected.metrics
    weights, resumed_weights = (trained_weights(tmp_path / name) for name in ("uninterrupted", "stopped"))
    assert weights.keys() == resumed_weights.keys()
    assert all(torch.equal(weights[name], resumed_weights[name]) for name in weights)


def test_other_data_to_test_on(tmp_path: Path) -> None:
    spec = write_pairs(tmp_path / "own", count=4, size=32).replace("images,", "images/train,") + "/train"
    settings = config(tmp_path / "cache", epochs=1, data=spec, test=spec)
    result = run(resolved(), settings)
    assert result.details["train_images"] == result.details["val_images"] == 4  # nothing is held out
    assert result.details["test_set"] == spec
    assert run(resolved(), replace(settings, test=None)).details["train_images"] == 3


@pytest.mark.parametrize("head", ["linear", "upernet"])
def test_the_range_of_pixels_comes_from_the_encoder(head: str, tmp_path: Path) -> None:
    """Images of twelve bits score as the same images of eight bits, whether encoder or config declares the range."""
    eight = write_pairs(tmp_path / "images", count=4, size=32)
    shutil.copytree(tmp_path / "images", tmp_path / "deep")
    for path in (tmp_path / "deep" / "images").rglob("*.png"):
        np.save(path.with_suffix(".npy"), np.asarray(Image.open(path)).astype(np.uint16) * 16)
        path.unlink()
    deep = eight.replace("/images/images", "/deep/images").replace("/images/masks", "/deep/masks")
    declared = replace(resolved(), value_range=(0.0, 255 * 16.0))
    expected = run(resolved(), config(tmp_path / "cache", data=eight, epochs=1, head=head)).metrics
    settings = config(tmp_path / "cache", data=deep, epochs=1, head=head)
    by_config = run(resolved(), replace(settings, value_range=declared.value_range)).metrics
    assert by_config == pytest.approx(expected, abs=0.02)
    assert run(declared, settings).metrics == by_config
    stored = evaluate("segment", declared, settings, out=tmp_path / "out")
    assert stored["metrics"] == by_config
    assert stored["config"]["value_range"] == [0.0, 255 * 16.0]
    as_typed = replace(settings, value_range=(0.0, 65535.0))
    assert run(resolved(), as_typed).metrics != by_config
    with pytest.raises(UserError, match="give --value-range 0 4095"):
        run(resolved(), settings)


def test_classes_of_other_data_have_to_agree(tmp_path: Path) -> None:
    specs = []
    for name, classes in (("a", ["sky", "cat", "dog"]), ("b", ["sky", "dog", "cat"]), ("c", ["sky", "cat"])):
        for kind, pixels in (("images", np.zeros((8, 8, 3), np.uint8)), ("masks", np.ones((8, 8), np.uint8))):
            (tmp_path / name / kind).mkdir(parents=True)
            Image.fromarray(pixels).save(tmp_path / name / kind / "0.png")
        (tmp_path / name / "classes.txt").write_text("\n".join(classes))
        specs.append(f"pairs:{tmp_path / name}/images,{tmp_path / name}/masks")
    with pytest.raises(UserError, match="differ from those of"):
        open_train_and_test(specs[0], specs[1], channels=3)
    train, test = open_train_and_test(specs[0], specs[2], channels=3)
    assert test.classes == train.classes == ["sky", "cat", "dog"]


def test_label_fractions_are_scored_in_one_call(tmp_path: Path) -> None:
    both = run(resolved(), config(tmp_path, label_fraction=(0.25, 1.0)))
    assert set(both.metrics) == {"miou", "miou@0.25", "pixel_accuracy", "pixel_accuracy@0.25"}
    assert (both.details["fit"]["images"], both.details["fit@0.25"]["images"]) == (8, 2)
    assert run(resolved(), config(tmp_path)).metrics["miou"] == both.metrics["miou"]
    alone = run(resolved(), config(tmp_path, label_fraction=(0.25,)))
    assert alone.metrics["miou"] == both.metrics["miou@0.25"]


def test_a_second_call_on_frozen_maps_reads_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(resolved(), config(tmp_path))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the encoder ran")

    monkeypatch.setattr(Encoder, "forward", refuse)
    assert run(resolved(), config(tmp_path)).metrics == first.metrics
    run(resolved(), config(tmp_path, lr=1e-2, label_fraction=(0.5,)))
    with pytest.raises(AssertionError, match="the encoder ran"):
        run(resolved(), config(tmp_path, seed=1))


@pytest.mark.parametrize("frozen", [True, False])
def test_a_result_says_which_maps_it_used(frozen: bool, tmp_path: Path) -> None:
    """Also where both share a cache; normed ones are the default."""
    encoder, settings = scattered(resolved("swin"), tmp_path), config(tmp_path, frozen=frozen)
    by_default, normed, raw = (
        evaluate("segment", encoder, replace(settings, **features), out=tmp_path / "out")
        for features in ({}, {"features": "normed"}, {"features": "raw"})
    )
    assert by_default["path"] == normed["path"] != raw["path"]
    assert [result["config"]["features"] for result in (by_default, raw)] == ["normed", "raw"]
    assert by_default["details"]["iou"] == normed["details"]["iou"] != raw["details"]["iou"]


@pytest.mark.parametrize("window", ["slide", "pad", "resize"])
@pytest.mark.parametrize("head", ["linear", "upernet"])
def test_images_of_another_size_are_scored_at_their_own(head: str, window: str, tmp_path: Path) -> None:
    data = write_pairs(tmp_path / "data", count=4, size=64, crop=(41, 60))
    settings = config(tmp_path, epochs=1, data=data, head=head, window=window, save_predictions=1)
    result = run(resolved(), settings, work_dir=tmp_path / "work")
    truth = sum(int((open_masks(data, split="val").load(i)[1] != IGNORE).sum()) for i in range(4))
    assert truth == 4 * 41 * 60
    assert 0 <= result.metrics["miou"] <= 1
    pictures = list((tmp_path / "work" / "predictions").iterdir())
    assert [picture.name for picture in pictures] == ["00000-0.png"]


def test_all_pixels_of_the_original_masks_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_pairs(tmp_path / "data", count=2, size=64, crop=(41, 60))
    shapes, add = [], Confusion.add

    def recording(confusion: Confusion, truth: torch.Tensor, predicted: torch.Tensor) -> None:
        shapes.append((tuple(truth.shape), tuple(predicted.shape)))
        add(confusion, truth, predicted)

    monkeypatch.setattr(Confusion, "add", recording)
    run(resolved(), config(tmp_path, epochs=1, data=data))
    assert shapes == [((41, 60), (41, 60))] * 2


def test_one_window_that_covers_all_is_the_whole_image() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 5, 32, 32, generator=generator)
    whole = nn.functional.interpolate(logits, (77, 77), mode="bilinear")[0].argmax(0)
    for mode in ("slide", "pad", "resize"):
        assert (class_map(logits, plan(77, 77, WindowsConfig(size=32, mode=mode)), (77, 77)) == whole).all()


def test_overlapping_windows_of_a_local_model_give_the_whole_image() -> None:
    image = torch.randn(3, 32, 50, generator=torch.Generator().manual_seed(0))
    local = nn.Conv2d(3, 5, 1)
    two = plan(32, 50, WindowsConfig(size=32))
    assert len(two.offsets) == 2
    windows = local(cut(image, two, 0))
    torch.testing.assert_close(merge(windows, two), local(image[None])[0])
    assert (class_map(windows, two, (32, 50)) == local(image[None])[0].argmax(0)).all()


def test_class_weights_change_the_training(tmp_path: Path) -> None:
    plain, weighted = (run(resolved(), config(tmp_path, class_weights=w)).details["fit"]["loss"] for w in (False, True))
    assert plain != weighted


def test_levels_last_uses_the_deepest_map_alone(tmp_path: Path) -> None:
    run(resolved(), config(tmp_path, levels="last"))
    stores = list((tmp_path / "maps").iterdir())
    assert len(stores) == 2  # training and validation
    assert all(sorted(p.name for p in s.glob("level-*")) == ["level-0.f16"] for s in stores)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"head": "fcn"}, "segment.head must be one of"),
        ({"levels": "first"}, "segment.levels must be one of"),
        ({"window": "tile"}, "segment.window must be one of"),
        ({"size": 4}, "at least 8 pixels"),
        ({"width": 0}, "width must be at least 1"),
        ({"overlap": 1.0}, "overlap must lie in"),
        ({"short_side": -1}, "short_side must not be negative"),
        ({"label_fraction": ()}, r"label_fraction .* not \(\)"),
        ({"label_fraction": (0.5, 1.5)}, "at most 1"),
        ({"jitter": 2.0}, "is a probability"),
        ({"scale": (2.0, 0.5)}, "smallest, largest"),
        ({"save_predictions": -1}, "must not be negative"),
        ({"head": "upernet", "fit": FitConfig(batch_size=1)}, "at least 2 with UPerNet"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SegmentConfig(**wrong)


def test_mistakes_in_data_and_encoder_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'scenes'"):
        run(resolved(), config(tmp_path, data="scene:8"))
    with pytest.raises(UserError, match="needs work_dir"):
        run(resolved(), config(tmp_path, save_predictions=1))
    wide = ResolvedEncoder("x", replace(TINY["convnext"], image_size=(32, 64)), None)
    with pytest.raises(UserError, match="side of square windows"):
        run(wide, config(tmp_path))


def test_a_linear_head_on_few_images_takes_enough_steps_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The length depends on the images where neither epochs nor learning rate are given; with an encoder it does not."""
    fits: list[tuple[int, FitConfig]] = []

    def fit(model: nn.Module, *, steps: int, config: FitConfig, **others: Any) -> dict[str, float]:
        fits.append((steps, config))
        return {}

    monkeypatch.setattr("repre.evaluation.segmentation.segmentation_task.fit", fit)
    given = config(tmp_path)
    for changes in ({"epochs": None, "lr": None}, {"epochs": 3, "lr": None}, {"epochs": None, "lr": 0.5}):
        run(resolved(), replace(given, fit=replace(given.fit, **changes)), work_dir=tmp_path)
    run(resolved(), replace(given, frozen=False, fit=replace(given.fit, epochs=None, lr=None)), work_dir=tmp_path)
    a_pass = fits[1][0] // 3
    assert [steps for steps, _ in fits[:3]] == [-(-1000 // a_pass) * a_pass, 3 * a_pass, -(-1000 // a_pass) * a_pass]
    assert fits[0][0] > 50 * a_pass, "the default would have been shorter"
    assert [config.optim.lr for _, config in fits] == [1e-2, 1e-2, 0.5, 1e-3]
    assert fits[3][0] % 50 == 0
