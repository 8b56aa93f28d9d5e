"""Fine-tuning: it learns, it resumes exactly, and it mixes images as the papers do."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from repre.data.loading.loader import stack
from repre.data.views.augmentations import ViewConfig
from repre.data.views.render import center_view, random_view
from repre.data.views.view_recipes import ViewsConfig
from repre.errors import UserError
from repre.evaluation.classification.finetune import Classifier, FinetuneConfig, mix, run
from repre.evaluation.fit import FitConfig
from repre.models.resolve import resolve_encoder
from repre.types import Batch
from repre.utils.signals import Interrupted
from tests.evaluation.tiny_eval import count_steps, on_cpu, tiny_resolved, trained_weights

FIT = FitConfig(epochs=2, batch_size=8, layer_decay=0.9)


def quick(cache: Path, **changes: Any) -> FinetuneConfig:
    return FinetuneConfig(**{"data": "scenes:24:16", "fit": FIT, "runtime": on_cpu(cache), **changes})


def colors(root: Path, *, multilabel: bool = False, count: int = 60) -> str:
    """A table of images of two colors; with `multilabel` some have both."""
    rng = np.random.default_rng(0)
    rows = []
    root.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        red, green = ((1, 0), (0, 1), (1, 1))[number % (3 if multilabel else 2)]
        pixels = rng.integers(0, 100, (20, 18, 3)) + np.array([100 * red, 100 * green, 0])
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"{number}.png")
        rows.append(f"{number}.png,{';'.join('r' * red + 'g' * green)},{'test' if number >= count - 18 else 'train'}")
    (root / "labels.csv").write_text("path,label,split\n" + "\n".join(rows) + "\n")
    return f"csv:{root / 'labels.csv'}"


@pytest.mark.parametrize("multilabel", [False, True])
def test_it_learns_what_can_be_learned(tmp_path: Path, multilabel: bool) -> None:
    config = quick(
        tmp_path,
        data=colors(tmp_path / "images", multilabel=multilabel),
        fit=FitConfig(epochs=20, batch_size=16, layer_decay=1.0, lr=5e-3),
    )
    result = run(tiny_resolved(), config)
    assert result.main == ("map" if multilabel else "accuracy")
    assert result.metrics[result.main] > 0.95
    assert result.details["per_class"].keys() == {"g", "r"}
    json.dumps(result.details)


@pytest.mark.slow
def test_the_encoder_is_saved_for_other_evaluations(tmp_path: Path) -> None:
    config = quick(tmp_path, label_fraction=(0.5, 1.0), save_encoder=True)
    result = run(tiny_resolved(), config, work_dir=tmp_path / "work")
    saved = resolve_encoder(str(tmp_path / "work" / "encoder"))
    untrained, trained = tiny_resolved().build(seed=0).state_dict(), saved.build().state_dict()
    assert untrained.keys() == trained.keys()
    assert any(not torch.equal(untrained[key], trained[key]) for key in trained)
    assert saved.config.name == tiny_resolved().config.name
    assert result.metrics == run(tiny_resolved(), replace(config, save_encoder=False)).metrics
    with pytest.raises(UserError, match="needs work_dir"):
        run(tiny_resolved(), config)


@pytest.mark.slow
def test_label_fractions_and_the_same_metrics_again(tmp_path: Path) -> None:
    config = quick(tmp_path, label_fraction=(0.2, 1.0), mixup=0.8, cutmix=1.0, smoothing=0.1)
    result = run(tiny_resolved(), config)
    assert set(result.metrics) == {"accuracy", "top5", "accuracy@0.2", "top5@0.2"}
    assert result.details["fit"]["images"] == 24
    assert result.details["fit@0.2"]["images"] < 24
    again = run(tiny_resolved(), config)
    assert again.metrics == result.metrics
    assert again.details["fit"]["loss"] == result.details["fit"]["loss"]
    assert run(tiny_resolved(), replace(config, seed=1)).details["fit"]["loss"] != result.details["fit"]["loss"]


def test_a_stopped_training_resumes_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = quick(tmp_path, mixup=0.8, view=ViewConfig(scale=(0.5, 1.0), jitter=0.8))
    expected = run(tiny_resolved(), config, work_dir=tmp_path / "uninterrupted")
    steps = count_steps(monkeypatch)
    steps.stop_at = 3
    with pytest.raises(Interrupted, match="stopped at step 3 of 6"):
        run(tiny_resolved(), config, work_dir=tmp_path / "stopped")
    resumed = run(tiny_resolved(), config, work_dir=tmp_path / "stopped")
    assert steps.count == 6
    assert resumed.metrics == expected.metrics
    assert resumed.details["fit"]["loss"] == expected.details["fit"]["loss"]
    weights = trained_weights(tmp_path / "uninterrupted")
    resumed_weights = trained_weights(tmp_path / "stopped")
    assert weights.keys() == resumed_weights.keys()
    assert all(torch.equal(weights[name], resumed_weights[name]) for name in weights)
    run(tiny_resolved(), replace(config, smoothing=0.2), work_dir=tmp_path / "stopped")
    assert steps.count == 12  # the checkpoint of another training is ignored


def test_every_part_is_trained_and_lower_layers_less(tmp_path: Path) -> None:
    resolved = tiny_resolved()
    torch.manual_seed(0)
    before = Classifier(resolved.build(seed=0), 10).state_dict()
    fit = replace(FIT, layer_decay=0.3, warmup_fraction=0.0)
    run(resolved, quick(tmp_path, fit=fit), work_dir=tmp_path / "work")
    trained = trained_weights(tmp_path / "work")
    moved = {name: float((trained[name] - before[name]).abs().mean()) for name in before}
    names = ("model.patch_embed.proj.weight", "model.blocks.0.attn.proj.weight", "model.blocks.1.attn.proj.weight")
    stem, first, second = (moved[f"encoder.{name}"] for name in names)
    assert 0 < stem < first < second
    assert moved["head.weight"] > 0


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    data = colors(tmp_path / "images", count=30)
    (tmp_path / "images" / "5.png").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"5.png cannot be read: not an image"):
        run(tiny_resolved(), quick(tmp_path, data=data))
    (tmp_path / "images" / "0.png").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"images/\d.png cannot be read"):
        run(tiny_resolved(), quick(tmp_path, data=data))


def test_images_in_memory_may_be_larger_than_twice_the_view(tmp_path: Path) -> None:
    assert run(tiny_resolved(), quick(tmp_path, data="scenes:16:80", fit=replace(FIT, epochs=1))).main == "accuracy"


# --------------------------------------------------------------------------------------------------- views and mixing


def test_mixup_blends_with_the_image_before() -> None:
    torch.manual_seed(0)
    images, labels = torch.rand(5, 3, 8, 8), torch.eye(5)
    mixed, targets = mix(images, labels, mixup=0.8, cutmix=0.0)
    for i in range(5):
        ratio = float(targets[i, i])
        assert 0 < ratio < 1
        torch.testing.assert_close(targets[i], ratio * labels[i] + (1 - ratio) * labels[i - 1])
        torch.testing.assert_close(mixed[i], ratio * images[i] + (1 - ratio) * images[i - 1])


def test_cutmix_counts_the_area_it_pastes() -> None:
    torch.manual_seed(0)
    ratios = []
    for _ in range(30):
        images = torch.arange(4.0)[:, None, None, None].expand(4, 1, 16, 16)
        mixed, targets = mix(images, torch.eye(4), mixup=0.0, cutmix=1.0)
        for i in range(4):
            own = float((mixed[i] == i).float().mean())
            assert float(targets[i, i]) == pytest.approx(own)
            assert float(targets[i, i - 1]) == pytest.approx(1 - own, abs=1e-6)
        pasted = (mixed[1, 0] != 1).nonzero()
        if len(pasted):  # one box
            height, width = (pasted.amax(0) - pasted.amin(0) + 1).tolist()
            assert height * width == len(pasted)
        ratios.append(float(targets[0, 0]))
    assert np.std(ratios) > 0.1


def test_with_both_each_is_taken_in_half_of_the_steps() -> None:
    pasted = 0
    for seed in range(200):
        torch.manual_seed(seed)
        mixed, _ = mix(torch.arange(2.0)[:, None, None, None].expand(2, 1, 8, 8), torch.eye(2), mixup=0.8, cutmix=1.0)
        pasted += bool(((mixed == 0) | (mixed == 1)).all())
    assert 75 < pasted < 125


def test_a_random_view_of_the_whole_image_is_the_plain_one() -> None:
    images = [np.random.default_rng(i).integers(0, 256, (40, 40, 3)).astype(np.uint8) for i in range(6)]
    pixels, sizes = stack([image.astype(np.float32) / 255 for image in images])  # bytes would be rounded
    batch = Batch(pixels, sizes, torch.arange(6), torch.arange(6), epoch=0)
    config = ViewsConfig(size=24)
    whole = ViewConfig(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, filter="bicubic")
    expected = center_view(pixels, sizes, size=24, config=config, crop_pct=1.0)
    torch.testing.assert_close(random_view(batch, whole, config, seed=0, device="cpu"), expected)
    crop = ViewConfig(scale=(0.3, 1.0))
    views = random_view(batch, crop, config, seed=0, device="cpu")
    assert torch.equal(views, random_view(batch, crop, config, seed=0, device="cpu"))
    for other in (replace(batch, epoch=1), replace(batch, positions=batch.positions + 6)):
        assert not torch.allclose(views, random_view(other, crop, config, seed=0, device="cpu"))
    assert not torch.allclose(views, random_view(batch, crop, config, seed=1, device="cpu"))


@pytest.mark.parametrize("wrong", [{"mixup": -1.0}, {"cutmix": -1.0}, {"smoothing": 1.0}, {"label_fraction": (0.0,)}])
def test_wrong_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        FinetuneConfig(**wrong)
