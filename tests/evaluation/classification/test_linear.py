"""The linear probe against scikit-learn and slow loops; test images never influence the choice of the setting."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from repre.data.labels.classes import LabeledSplits, open_labeled
from repre.data.labels.splits import LabeledImages
from repre.errors import UserError
from repre.evaluation.classification import opening
from repre.evaluation.classification.linear import LinearConfig, LinearProbe, fit_linear, run
from repre.evaluation.features import cached_features, eval_transform
from repre.evaluation.metrics import classification
from repre.models.encoder import Encoder
from tests.evaluation.tiny_eval import on_cpu, tiny_resolved


def blobs(count: int, *, seed: int, width: int = 20, classes: int = 5, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    """Overlapping classes on axes of very different lengths."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(classes, width, generator=torch.Generator().manual_seed(9)) * 0.6
    labels = torch.randint(0, classes, (count,), generator=generator)
    features = centers[labels] + spread * torch.randn(count, width, generator=generator)
    return features * torch.logspace(-2, 2, width) + 5, labels


def slow_sweep(features: Tensor, labels: Tensor, lr: float, decay: float, *, steps: int, classes: int) -> Tensor:
    """One classifier by autograd and torch's SGD on all images; its scores of them."""
    inputs = (features - features.mean(0)) / features.std(0, correction=0)
    layer = torch.nn.Linear(features.shape[1], classes)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    groups = [{"params": [layer.weight], "weight_decay": decay}, {"params": [layer.bias], "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        if labels.ndim == 1:
            loss = torch.nn.functional.cross_entropy(layer(inputs), labels)
        else:
            loss = torch.nn.functional.binary_cross_entropy_with_logits(layer(inputs), labels) * classes
        loss.backward()
        optimizer.step()
        schedule.step()
    return layer(inputs).detach()


@pytest.mark.parametrize("multilabel", [False, True])
def test_the_sweep_equals_classifiers_trained_alone(multilabel: bool) -> None:
    features, labels = blobs(256, seed=0)
    targets = torch.nn.functional.one_hot(labels, 5).float() if multilabel else labels
    settings = [(0.01, 0.0), (0.3, 0.0), (0.3, 0.01)]
    scores = fit_linear(features, targets, classes=5, settings=settings, steps=30)(features)
    for index, (lr, decay) in enumerate(settings):
        torch.testing.assert_close(
            scores[:, index], slow_sweep(features, targets, lr, decay, steps=30, classes=5), rtol=1e-3, atol=1e-4
        )


def test_a_setting_that_diverges_leaves_the_others_alone() -> None:
    features, labels = blobs(300, seed=0)
    alone = fit_linear(features, labels, classes=5, settings=[(0.1, 0.0)], steps=50)(features)[:, 0]
    beside = fit_linear(features, labels, classes=5, settings=[(1e38, 1.0), (0.1, 0.0)], steps=50)(features)
    assert not beside[:, 0].isfinite().all()
    torch.testing.assert_close(beside[:, 1], alone)


def test_constant_features_do_not_count() -> None:
    features, labels = blobs(200, seed=0)
    constant = torch.cat([features, torch.full((200, 1), 3.0)], 1)
    classifiers = fit_linear(constant, labels, classes=5, settings=[(0.1, 0.0)], steps=20)
    moved = torch.cat([features, torch.full((200, 1), 7.0)], 1)
    torch.testing.assert_close(classifiers(constant), classifiers(moved))


def within_a_point(train: Tensor, labels: Tensor, test: Tensor, truth: Tensor, *, classes: int) -> None:
    """The probe, its learning rate chosen by validation, against logistic regression on the same features.

    Both have almost no penalty: scikit-learn's default one suppresses features of low variance and is worse on scenes.
    """
    splits = splits_of(train, labels, test, truth, classes=classes)
    probe = LinearProbe(LinearConfig(), splits, train, test)
    scores, _ = probe(np.arange(len(train)), seed=0)
    accuracy = classification(scores, truth)["accuracy"]
    mean, std = train.mean(0), train.std(0).clamp(min=1e-12)
    oracle = LogisticRegression(C=1e3, max_iter=5000).fit(((train - mean) / std).numpy(), labels.numpy())
    expected = float(oracle.score(((test - mean) / std).numpy(), truth.numpy()))
    assert abs(accuracy - expected) < 0.01, (accuracy, expected)


def splits_of(train: Tensor, labels: Tensor, test: Tensor, truth: Tensor, *, classes: int) -> LabeledSplits:
    class NoImages:
        spec, channels = "features", 3

        def __init__(self, count: int) -> None:
            self.count = count

        def __len__(self) -> int:
            return self.count

    names = [str(number) for number in range(classes)]
    parts = [
        LabeledImages(NoImages(len(features)), targets.numpy(), classes=names)  # type: ignore[arg-type]
        for features, targets in ((train, labels), (test, truth))
    ]
    return LabeledSplits(*parts, names, labels.ndim == 2)


@pytest.mark.slow
def test_within_a_point_of_logistic_regression_on_synthetic_features() -> None:
    within_a_point(*blobs(2000, seed=0), *blobs(4000, seed=1), classes=5)


@pytest.mark.slow
def test_within_a_point_of_logistic_regression_on_features_of_scenes(tmp_path: Path) -> None:
    """The labels are levels of brightness, which a tiny random encoder sees in part."""
    resolved = tiny_resolved()
    encoder = resolved.build()
    transform = eval_transform(resolved, encoder)
    splits = open_labeled("scenes:1500:16")
    features, targets = [], []
    for images in (splits.train, splits.test):
        features.append(cached_features(encoder, images, transform, runtime=on_cpu(tmp_path, batch=256)))
        brightness = torch.tensor([images.load(i).mean() for i in range(len(images))])
        targets.append(torch.bucketize(brightness, torch.tensor([90.0, 120.0, 150.0])))
    within_a_point(features[0], targets[0], features[1], targets[1], classes=4)


# ---------------------------------------------------------------------------------------------------------------- run


def quick(cache: Path, **changes: Any) -> LinearConfig:
    settings = {"data": "scenes:60:16", "lrs": (0.01, 0.1, 1.0), "steps": 40, "runtime": on_cpu(cache), **changes}
    return LinearConfig(**settings)


def test_run_returns_a_metric_for_every_fraction_and_shot(tmp_path: Path) -> None:
    config = quick(tmp_path, label_fraction=(0.3, 1.0), shots=(1, 2), draws=2, weight_decays=(0.0, 1e-3))
    result = run(tiny_resolved(), config)
    assert result.main == "accuracy"
    assert set(result.metrics) == {"accuracy", "top5", "accuracy@0.3", "top5@0.3", "shots1", "shots2"}
    assert all(0 <= value <= 1 for value in result.metrics.values())
    assert len(result.details["chosen"]["sweep"]) == 6
    assert result.details["chosen"]["images"] == 60
    assert len(result.details["shots2"]["draws"]) == 2
    json.dumps(result.details)
    assert run(tiny_resolved(), config) == result
    other = run(tiny_resolved(), replace(config, seed=1))
    assert other.metrics != result.metrics


def test_a_second_run_reads_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(tiny_resolved(), quick(tmp_path))
    monkeypatch.setattr(Encoder, "forward", lambda *_, **__: pytest.fail("the encoder ran"))
    assert run(tiny_resolved(), quick(tmp_path)) == first


def test_the_choice_does_not_see_test_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With other test labels the metrics change, but not the chosen setting."""
    first = run(tiny_resolved(), quick(tmp_path))

    def other_test_labels(*arguments: Any, **options: Any) -> LabeledSplits:
        splits = open_labeled(*arguments, **options)
        test = LabeledImages(splits.test.source, (splits.test.targets + 1) % 10, classes=splits.classes)
        return replace(splits, test=test)

    monkeypatch.setattr(opening, "open_labeled", other_test_labels)
    second = run(tiny_resolved(), quick(tmp_path))
    assert second.details["chosen"] == first.details["chosen"]
    assert second.metrics != first.metrics


def test_validation_images_of_the_data_choose(tmp_path: Path) -> None:
    features, labels = blobs(120, seed=0)
    test, truth = blobs(50, seed=1)
    splits = splits_of(features, labels, test, truth, classes=5)
    val = splits_of(*blobs(30, seed=2), test, truth, classes=5).train
    probe = LinearProbe(quick(tmp_path), replace(splits, val=val), features, test, blobs(30, seed=2)[0])
    _, chosen = probe(np.arange(120), seed=0)
    assert chosen["by"] == "30 validation images"
    scores = fit_linear(features, labels, classes=5, settings=probe.settings, steps=40)(blobs(30, seed=2)[0])
    expected = [classification(scores[:, i], blobs(30, seed=2)[1])["accuracy"] for i in range(3)]
    assert [row["val"] for row in chosen["sweep"]] == pytest.approx(expected)
    assert chosen["sweep"][[0.01, 0.1, 1.0].index(chosen["lr"])]["val"] == max(expected)


def test_a_diverged_setting_is_never_chosen(tmp_path: Path) -> None:
    features, labels = blobs(200, seed=0)
    splits = splits_of(features, labels, features, labels, classes=5)
    probe = LinearProbe(quick(tmp_path, lrs=(1e30, 0.1), weight_decays=(1.0,)), splits, features, features)
    assert probe(np.arange(200), seed=0)[1]["lr"] == 0.1


def test_several_labels_give_mean_average_precision(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(40):
        red, green = ((1, 0), (0, 1), (1, 1))[number % 3]
        pixels = rng.integers(0, 60, (16, 16, 3)) + np.array([180 * red, 180 * green, 0])
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{';'.join('r' * red + 'g' * green)}")
    (tmp_path / "labels.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    config = quick(tmp_path / "c", data=f"csv:{tmp_path / 'labels.csv'}", label_fraction=(0.5, 1.0), steps=200)
    result = run(tiny_resolved(), config)
    assert result.main == "map"
    assert set(result.metrics) == {"map", "map@0.5"}
    assert result.metrics["map"] > 0.95
    with pytest.raises(UserError, match="shots"):
        run(tiny_resolved(), replace(config, shots=(1,)))


@pytest.mark.parametrize(
    "wrong",
    [{"lrs": ()}, {"lrs": (0.0,)}, {"weight_decays": (-1.0,)}, {"steps": 0}, {"draws": 0}, {"shots": (0,)},
     {"label_fraction": ()}],
)  # fmt: skip
def test_wrong_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        LinearConfig(**wrong)


def test_too_few_images_for_the_shots(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="30 shots"):
        run(tiny_resolved(), quick(tmp_path, shots=(30,)))
