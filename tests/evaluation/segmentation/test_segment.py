"""Segmentation end to end on tiny encoders: both heads, frozen and not, any image size, exact resume, bad input."""

import os
import shutil
import signal
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
from repre.evaluation.segmentation import segment
from repre.evaluation.segmentation.segment import (
    SegmentConfig,
    Segmenter,
    class_weights,
    open_train_and_test,
    predict,
    run,
    segmentation_loss,
)
from repre.evaluation.segmentation.segmentation_heads import LinearHead, resize
from repre.models.encoder import Encoder, EncoderConfig
from repre.models.resolve import ResolvedEncoder
from repre.utils.signals import Interrupted
from tests.oracles import segmentation as slow
from tests.tiny import ENCODERS

TINY = {
    **ENCODERS,
    "convnext": EncoderConfig(
        name="convnext_atto", image_size=64, model_args={"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 24)}
    ),
}
HEADS = [("linear", None), ("linear", False), ("upernet", None), ("upernet", True)]


def start(name: str = "vit") -> ResolvedEncoder:
    return ResolvedEncoder(f"random:{name}", TINY[name], None)


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
    said = config(tmp_path, epochs=1, head=head, frozen=frozen)
    result = run(start(name), said)
    assert set(result.metrics) == {"miou", "pixel_accuracy"}
    assert all(0 <= value <= 1 for value in result.metrics.values())
    assert result.main == "miou"
    known = [value for value in result.details["iou"].values() if value is not None]
    assert result.metrics["miou"] == pytest.approx(sum(known) / len(known))
    assert list(result.details["iou"])[:2] == ["background", "disc"]
    assert run(start(name), said).metrics == result.metrics  # the same seed gives the same figure


@pytest.mark.parametrize("head", ["linear", "upernet"])
def test_workers_change_nothing_and_bf16_little(head: str, tmp_path: Path) -> None:
    options = RuntimeOptions(device="cpu", workers=0, cache=tmp_path / "here")
    plain, spread, low = (
        run(start(), config(tmp_path, head=head, runtime=runtime))
        for runtime in (
            options,
            replace(options, workers=2, cache=tmp_path / "there"),
            replace(options, precision="bf16", cache=tmp_path / "low"),
        )
    )
    assert spread.metrics == plain.metrics
    assert spread.details["fit"]["loss"] == plain.details["fit"]["loss"]
    assert low.details["fit"]["loss"] == pytest.approx(plain.details["fit"]["loss"], rel=0.05)


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
def test_stopped_and_called_again_it_ends_alike(
    head: str, frozen: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = config(tmp_path / "cache", epochs=3, head=head, frozen=frozen, jitter=0.5)
    whole = run(start(), said, work=tmp_path / "whole")
    loss, calls = segment.segmentation_loss, 0

    def stop_at_the_fourth(*arguments: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(*arguments)

    monkeypatch.setattr(segment, "segmentation_loss", stop_at_the_fourth)
    with pytest.raises(Interrupted):
        run(start(), said, work=tmp_path / "parts")
    resumed = run(start(), said, work=tmp_path / "parts")
    assert calls == 6  # three epochs of two steps, none of them twice
    assert resumed.metrics == whole.metrics
    files = [next((tmp_path / part).glob("fit-*.pt")) for part in ("whole", "parts")]
    one, other = (torch.load(file, weights_only=True)["model"] for file in files)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_other_data_to_test_on(tmp_path: Path) -> None:
    spec = write_pairs(tmp_path / "own", count=4, size=32).replace("images,", "images/train,") + "/train"
    said = config(tmp_path / "cache", epochs=1, data=spec, test=spec)
    result = run(start(), said)
    assert result.details["train_images"] == result.details["val_images"] == 4  # nothing is held out
    assert result.details["test_set"] == spec
    assert run(start(), replace(said, test=None)).details["train_images"] == 3


@pytest.mark.parametrize("head", ["linear", "upernet"])
def test_the_range_of_pixels_comes_from_the_encoder(head: str, tmp_path: Path) -> None:
    """Twelve bits of sixteen are scored as the same images in eight bits are, told or not; and what was said is kept."""
    eight = write_pairs(tmp_path / "images", count=4, size=32)
    shutil.copytree(tmp_path / "images", tmp_path / "deep")
    for path in (tmp_path / "deep" / "images").rglob("*.png"):
        np.save(path.with_suffix(".npy"), np.asarray(Image.open(path)).astype(np.uint16) * 16)
        path.unlink()
    deep = eight.replace("/images/images", "/deep/images").replace("/images/masks", "/deep/masks")
    known = replace(start(), value_range=(0.0, 255 * 16.0))
    wanted = run(start(), config(tmp_path / "cache", data=eight, epochs=1, head=head)).metrics
    said = config(tmp_path / "cache", data=deep, epochs=1, head=head)
    told = run(start(), replace(said, value_range=known.value_range)).metrics
    assert told == pytest.approx(wanted, abs=0.02)
    assert run(known, said).metrics == told
    stored = evaluate("segment", known, said, out=tmp_path / "out")
    assert stored["metrics"] == told
    assert stored["config"]["value_range"] == [0.0, 255 * 16.0]
    assert run(start(), said).metrics != told


def test_classes_of_other_data_have_to_agree(tmp_path: Path) -> None:
    specs = []
    for name, classes in (("a", ["sky", "cat", "dog"]), ("b", ["sky", "dog", "cat"]), ("c", ["sky", "cat"])):
        for kind, pixels in (("images", np.zeros((8, 8, 3), np.uint8)), ("masks", np.ones((8, 8), np.uint8))):
            (tmp_path / name / kind).mkdir(parents=True)
            Image.fromarray(pixels).save(tmp_path / name / kind / "0.png")
        (tmp_path / name / "classes.txt").write_text("\n".join(classes))
        specs.append(f"pairs:{tmp_path / name}/images,{tmp_path / name}/masks")
    with pytest.raises(UserError, match="its classes are"):
        open_train_and_test(specs[0], specs[1], channels=3)
    train, test = open_train_and_test(specs[0], specs[2], channels=3)
    assert test.classes == train.classes == ["sky", "cat", "dog"]


def test_label_fractions_are_scored_in_one_call(tmp_path: Path) -> None:
    both = run(start(), config(tmp_path, label_fraction=(0.25, 1.0)))
    assert set(both.metrics) == {"miou", "miou@0.25", "pixel_accuracy", "pixel_accuracy@0.25"}
    assert (both.details["fit"]["images"], both.details["fit@0.25"]["images"]) == (8, 2)
    assert run(start(), config(tmp_path)).metrics["miou"] == both.metrics["miou"]
    alone = run(start(), config(tmp_path, label_fraction=(0.25,)))
    assert alone.metrics["miou"] == both.metrics["miou@0.25"]


def test_a_second_call_on_frozen_maps_does_not_run_the_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(start(), config(tmp_path))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the encoder ran")

    monkeypatch.setattr(Encoder, "forward", refuse)
    assert run(start(), config(tmp_path)).metrics == first.metrics
    run(start(), config(tmp_path, lr=1e-2, label_fraction=(0.5,)))
    with pytest.raises(AssertionError, match="the encoder ran"):
        run(start(), config(tmp_path, seed=1))


@pytest.mark.parametrize("window", ["slide", "pad", "resize"])
@pytest.mark.parametrize("head", ["linear", "upernet"])
def test_images_of_another_size_are_scored_at_their_own(head: str, window: str, tmp_path: Path) -> None:
    data = write_pairs(tmp_path / "data", count=4, size=64, crop=(41, 60))
    said = config(tmp_path, epochs=1, data=data, head=head, window=window, save_predictions=1)
    result = run(start(), said, work=tmp_path / "work")
    truth = sum(int((open_masks(data, split="val").load(i)[1] != IGNORE).sum()) for i in range(4))
    assert truth == 4 * 41 * 60
    assert 0 <= result.metrics["miou"] <= 1
    pictures = list((tmp_path / "work" / "predictions").iterdir())
    assert [picture.name for picture in pictures] == ["00000-0.png"]


def test_all_pixels_of_the_original_masks_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_pairs(tmp_path / "data", count=2, size=64, crop=(41, 60))
    seen = []

    class Spy(segment.Confusion):
        def add(self, truth: torch.Tensor, predicted: torch.Tensor) -> None:
            seen.append((tuple(truth.shape), tuple(predicted.shape)))
            super().add(truth, predicted)

    monkeypatch.setattr(segment, "Confusion", Spy)
    run(start(), config(tmp_path, epochs=1, data=data))
    assert seen == [((41, 60), (41, 60))] * 2


def test_one_window_that_covers_all_is_the_whole_image() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 5, 32, 32, generator=generator)
    whole = nn.functional.interpolate(logits, (77, 77), mode="bilinear")[0].argmax(0)
    for mode in ("slide", "pad", "resize"):
        assert (predict(logits, plan(77, 77, WindowsConfig(size=32, mode=mode)), (77, 77)) == whole).all()


def test_overlapping_windows_of_a_local_model_give_the_whole_image() -> None:
    image = torch.randn(3, 32, 50, generator=torch.Generator().manual_seed(0))
    local = nn.Conv2d(3, 5, 1)
    found = plan(32, 50, WindowsConfig(size=32))
    assert len(found.offsets) == 2
    windows = local(cut(image, found, 0))
    torch.testing.assert_close(merge(windows, found), local(image[None])[0])
    assert (predict(windows, found, (32, 50)) == local(image[None])[0].argmax(0)).all()


@pytest.mark.parametrize("weighted", [False, True])
def test_loss_equals_slow_loops(weighted: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 5, 6, generator=generator)
    masks = torch.randint(0, 4, (2, 5, 6), generator=generator)
    masks[0, :2] = IGNORE
    weights = torch.tensor([1.0, 0.5, 3.0, 2.0]) if weighted else None
    torch.testing.assert_close(segmentation_loss(logits, masks, weights), slow.loss(logits, masks, weights))
    changed = logits.clone()
    changed[0, :, :2] += 7 * torch.randn(4, 2, 6)
    assert torch.equal(segmentation_loss(logits, masks, weights), segmentation_loss(changed, masks, weights))
    assert float(segmentation_loss(logits, torch.full_like(masks, IGNORE), weights)) == 0.0


class Masks:
    """Three masks whose class frequencies can be counted by hand."""

    spec, channels, classes = "hand", 3, ["a", "b", "c", "never"]
    masks = ([0, 0, 0, 1], [0, 0, 2, IGNORE], [0, 0, 0, 0])

    def __len__(self) -> int:
        return len(self.masks)

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((2, 2, 3), np.uint8), np.array(self.masks[index], np.uint8).reshape(2, 2)

    def describe(self, index: int) -> str:
        return str(index)

    def fingerprint(self) -> str:
        return "hand"


def test_class_weights_are_median_over_frequency() -> None:
    frequency = [9 / 11, 1 / 4, 1 / 3]  # of the counted pixels of the images that show the class
    expected = [1 / 3 / f for f in frequency] + [1.0]
    torch.testing.assert_close(class_weights(Masks(), [0, 1, 2]), torch.tensor(expected))


def test_class_weights_change_the_training(tmp_path: Path) -> None:
    plain, weighted = (run(start(), config(tmp_path, class_weights=w)).details["fit"]["loss"] for w in (False, True))
    assert plain != weighted


def test_a_frozen_encoder_is_not_touched() -> None:
    torch.manual_seed(0)
    encoder = Encoder(replace(TINY["convnext"], drop_path=0.5))
    head = LinearHead(encoder.widths, 3, frozen=True)
    frozen = Segmenter(encoder, head, [0, 1, 2, 3], frozen=True).train()
    assert not encoder.training
    assert head.training
    images = torch.randn(2, 3, 64, 64)
    frozen(images).sum().backward()
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert all(parameter.grad is not None for parameter in head.parameters())
    with torch.no_grad():
        frozen.eval()
        from_maps = resize(head(encoder(images).maps), (64, 64))
        torch.testing.assert_close(frozen(images), from_maps)


def test_levels_last_sees_the_deepest_map_alone(tmp_path: Path) -> None:
    run(start(), config(tmp_path, levels="last"))
    stores = list((tmp_path / "maps").iterdir())
    assert len(stores) == 2  # training and validation
    assert all(sorted(p.name for p in s.glob("level-*")) == ["level-0.f16"] for s in stores)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"head": "fcn"}, "head='fcn': choose linear or upernet"),
        ({"levels": "first"}, "levels='first'"),
        ({"window": "tile"}, "choose slide or pad or resize"),
        ({"size": 4}, "at least 8 pixels"),
        ({"width": 0}, "width 0 must be at least 1"),
        ({"overlap": 1.0}, "overlap=1.0"),
        ({"short_side": -1}, "short_side=-1"),
        ({"label_fraction": ()}, r"label_fraction=\(\)"),
        ({"label_fraction": (0.5, 1.5)}, "at most 1"),
        ({"jitter": 2.0}, "a probability"),
        ({"scale": (2.0, 0.5)}, "smallest and the largest"),
        ({"save_predictions": -1}, "0 or more"),
        ({"head": "upernet", "fit": FitConfig(batch_size=1)}, "at least 2 images"),
    ],
)
def test_settings_that_do_not_serve_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        SegmentConfig(**wrong)


def test_runs_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'scenes'"):
        run(start(), config(tmp_path, data="scene:8"))
    with pytest.raises(UserError, match="a folder to work in"):
        run(start(), config(tmp_path, save_predictions=1))
    wide = ResolvedEncoder("x", replace(TINY["convnext"], image_size=(32, 64)), None)
    with pytest.raises(UserError, match="side of square windows"):
        run(wide, config(tmp_path))
