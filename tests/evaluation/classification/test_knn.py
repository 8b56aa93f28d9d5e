"""k-NN against its slow loops and scikit-learn, and the two baselines on images where the answer is known."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier

from repre.data.labels.classes import open_labeled
from repre.data.labels.splits import draw_share
from repre.data.views.render import ViewsConfig, moco_v3_views
from repre.errors import UserError
from repre.evaluation.classification.knn import KNNConfig, knn_accuracy, knn_predict, knn_votes, run
from repre.evaluation.features import (
    color_histogram,
    encoder_features,
    eval_transform,
    extract,
    extract_all,
    raw_pixels,
)
from tests.evaluation.tiny_eval import on_cpu, tiny_start


def slow(train: torch.Tensor, labels: torch.Tensor, test: torch.Tensor, k: int, classes: int) -> list[int]:
    found = []
    for x in test:
        cosines = [float(x @ t / (x.norm() * t.norm())) for t in train]
        near = sorted(range(len(train)), key=lambda j: -cosines[j])[:k]
        votes = [0.0] * classes
        for j in near:
            votes[int(labels[j])] += math.exp(cosines[j] / 0.07)
        found.append(votes.index(max(votes)))
    return found


@pytest.mark.parametrize("k", [1, 5, 100])
def test_knn_equals_slow_loops(k: int) -> None:
    generator = torch.Generator().manual_seed(0)
    train, test = torch.randn(60, 6, generator=generator), torch.randn(40, 6, generator=generator)
    labels = torch.randint(0, 4, (60,), generator=generator)
    assert knn_predict(train, labels, test, k=k, classes=4).tolist() == slow(train, labels, test, k, 4)


def test_accuracy_of_separable_features_is_one() -> None:
    labels = torch.arange(30) % 3
    features = torch.eye(3)[labels] + 0.01 * torch.randn(30, 3)
    assert knn_accuracy(features, labels, features, labels, k=5, classes=3) == 1.0
    assert knn_accuracy(features, labels, features, (labels + 1) % 3, k=5, classes=3) == 0.0


def test_histogram_counts_colors_and_forgets_places() -> None:
    views: ViewsConfig = moco_v3_views(16)
    mean, std = views.statistics(3)
    image = torch.rand(1, 3, 16, 16)
    moved = image.roll((5, 3), (2, 3))
    features = extract((torch.cat([image, moved, 1 - image]) - mean) / std, color_histogram(views))
    torch.testing.assert_close(features[0], features[1])
    assert not torch.allclose(features[0], features[2])
    torch.testing.assert_close(features.square().sum(1), torch.ones(3))


def test_raw_pixels_ignore_brightness() -> None:
    image = torch.rand(1, 3, 4, 4)
    torch.testing.assert_close(raw_pixels(image), raw_pixels(image + 2.0))


@pytest.mark.parametrize("k", [1, 7, 60])
def test_knn_equals_scikit_learn(k: int) -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 5, (60,), generator=generator)
    train = torch.randn(60, 8, generator=generator) + 0.7 * torch.eye(5, 8)[labels]
    test = torch.randn(50, 8, generator=generator)
    oracle = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.07)
    ).fit(train.numpy(), labels.numpy())
    votes = knn_votes(train, labels, test, k=(k,), classes=5)[k]
    np.testing.assert_allclose(votes.numpy(), oracle.predict_proba(test.numpy()), atol=1e-4)
    assert knn_predict(train, labels, test, k=k, classes=5).tolist() == oracle.predict(test.numpy()).tolist()


def test_votes_for_several_labels_are_those_for_each() -> None:
    generator = torch.Generator().manual_seed(0)
    train, test = torch.randn(30, 4, generator=generator), torch.randn(9, 4, generator=generator)
    labels = torch.randint(0, 3, (30,), generator=generator)
    one = knn_votes(train, labels, test, k=(3, 8), classes=3)
    several = knn_votes(train, torch.eye(3)[labels], test, k=(3, 8), classes=3)
    for k in (3, 8):
        torch.testing.assert_close(one[k], several[k])


def test_a_low_temperature_does_not_overflow() -> None:
    votes = knn_votes(torch.eye(2), torch.tensor([0, 1]), torch.eye(2), k=(2,), temperature=1e-3, classes=2)[2]
    torch.testing.assert_close(votes, torch.eye(2))


def test_run_says_what_the_parts_say(tmp_path: Path) -> None:
    start = tiny_start()
    config = KNNConfig(
        data="scenes:60:16", k=(1, 20), label_fraction=(0.5, 1.0), baselines=True, runtime=on_cpu(tmp_path)
    )
    result = run(start, config)
    assert result.main == "knn20"
    names = {"knn1", "knn20", "knn1@0.5", "knn20@0.5", "raw_pixels", "color_histogram", "majority_class"}
    assert set(result.metrics) == names
    assert run(start, config) == result

    encoder = start.build().eval()
    splits = open_labeled("scenes:60:16")
    transform = eval_transform(start, encoder)
    train, test = (
        extract_all(images, transform, [encoder_features(encoder), raw_pixels], runtime=on_cpu(tmp_path))
        for images in (splits.train, splits.test)
    )
    labels, truth = (torch.from_numpy(images.targets) for images in (splits.train, splits.test))
    assert result.metrics["knn20"] == knn_accuracy(train[0], labels, test[0], truth, classes=10)
    assert result.metrics["raw_pixels"] == knn_accuracy(train[1], labels, test[1], truth, classes=10)
    half = torch.from_numpy(draw_share(splits.train.targets, 0.5, seed=0))
    expected = knn_accuracy(train[0][half], labels[half], test[0], truth, k=1, classes=10)
    assert result.metrics["knn1@0.5"] == expected
    assert result.details["train_images"] == 60
    json.dumps(result.details)


def test_run_with_several_labels_gives_mean_average_precision(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(30):  # red images are "r", green ones "g", yellow ones both
        red, green = ((1, 0), (0, 1), (1, 1))[number % 3]
        pixels = rng.integers(0, 60, (16, 16, 3)) + np.array([180 * red, 180 * green, 0])
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{';'.join('r' * red + 'g' * green)},{'train' if number < 21 else 'test'}")
    (tmp_path / "labels.csv").write_text("path,label,split\n" + "\n".join(rows) + "\n")
    config = KNNConfig(
        data=f"csv:{tmp_path / 'labels.csv'}",
        k=(3, 5),
        temperature=0.01,
        baselines=True,
        runtime=on_cpu(tmp_path / "c"),
    )
    result = run(tiny_start(), config)
    assert result.main == "knn5_map"
    assert set(result.metrics) == {"knn3_map", "knn5_map", "raw_pixels", "color_histogram"}
    assert result.metrics["color_histogram"] == 1.0
    assert result.details["per_class"].keys() == {"r", "g"}


@pytest.mark.parametrize("wrong", [{"k": ()}, {"k": (0,)}, {"temperature": 0.0}, {"label_fraction": (2.0,)}])
def test_wrong_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        KNNConfig(**wrong)
