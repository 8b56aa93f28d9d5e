"""k-NN against slow loops and scikit-learn, and as a whole evaluation."""

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
from repre.errors import UserError
from repre.evaluation.classification.knn import KNNConfig, knn_metrics, knn_votes, run
from repre.evaluation.features import encoder_extractor, eval_transform, stream_views
from tests.evaluation.tiny_eval import on_cpu, tiny_resolved


def slow(train: torch.Tensor, labels: torch.Tensor, test: torch.Tensor, k: int, classes: int) -> list[int]:
    predictions = []
    for x in test:
        cosines = [float(x @ t / (x.norm() * t.norm())) for t in train]
        nearest = sorted(range(len(train)), key=lambda j: -cosines[j])[:k]
        votes = [0.0] * classes
        for j in nearest:
            votes[int(labels[j])] += math.exp(cosines[j] / 0.07)
        predictions.append(votes.index(max(votes)))
    return predictions


@pytest.mark.parametrize("k", [1, 5, 100])
def test_votes_equal_slow_loops(k: int) -> None:
    generator = torch.Generator().manual_seed(0)
    train, test = torch.randn(60, 6, generator=generator), torch.randn(40, 6, generator=generator)
    labels = torch.randint(0, 4, (60,), generator=generator)
    votes = knn_votes(train, labels, test, k=(k,), classes=4)[k]
    assert votes.argmax(1).tolist() == slow(train, labels, test, k, 4)


@pytest.mark.parametrize("k", [1, 7, 60])
def test_votes_equal_scikit_learn(k: int) -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 5, (60,), generator=generator)
    train = torch.randn(60, 8, generator=generator) + 0.7 * torch.eye(5, 8)[labels]
    test = torch.randn(50, 8, generator=generator)
    oracle = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.07)
    ).fit(train.numpy(), labels.numpy())
    votes = knn_votes(train, labels, test, k=(k,), classes=5)[k]
    np.testing.assert_allclose(votes.numpy(), oracle.predict_proba(test.numpy()), atol=1e-4)
    assert votes.argmax(1).tolist() == oracle.predict(test.numpy()).tolist()


def test_votes_for_several_labels_are_those_for_each() -> None:
    generator = torch.Generator().manual_seed(0)
    train, test = torch.randn(30, 4, generator=generator), torch.randn(9, 4, generator=generator)
    labels = torch.randint(0, 3, (30,), generator=generator)
    single = knn_votes(train, labels, test, k=(3, 8), classes=3)
    multiple = knn_votes(train, torch.eye(3)[labels], test, k=(3, 8), classes=3)
    for k in (3, 8):
        torch.testing.assert_close(single[k], multiple[k])


def test_a_low_temperature_does_not_overflow() -> None:
    votes = knn_votes(torch.eye(2), torch.tensor([0, 1]), torch.eye(2), k=(2,), temperature=1e-3, classes=2)[2]
    torch.testing.assert_close(votes, torch.eye(2))


def test_run_returns_the_accuracy_of_features_extracted_at_once(tmp_path: Path) -> None:
    resolved, runtime = tiny_resolved(), on_cpu(tmp_path)
    config = KNNConfig(data="scenes:60:16", k=(1, 20), label_fraction=(0.5, 1.0), baselines=True, runtime=runtime)
    result = run(resolved, config)
    assert result.main == "knn20"
    names = {"knn1", "knn20", "knn1@0.5", "knn20@0.5", "raw_pixels", "color_histogram", "majority_class"}
    assert set(result.metrics) == names
    assert run(resolved, config) == result

    encoder = resolved.build()
    splits = open_labeled("scenes:60:16")
    transform = eval_transform(resolved, encoder)
    train, test = (stream_views(images, transform, runtime=runtime) for images in (splits.train, splits.test))
    extractors = {
        "encoder": encoder_extractor(encoder),
        "pixels": lambda x: x.flatten(1) - x.flatten(1).mean(1)[:, None],
    }
    expected = knn_metrics(extractors, splits, train, test)
    assert result.metrics["knn20"] == expected["encoder"]
    assert result.metrics["raw_pixels"] == expected["pixels"]
    counts = np.bincount(splits.train.targets)
    assert result.metrics["majority_class"] == pytest.approx((splits.test.targets == counts.argmax()).mean())

    half = draw_share(splits.train.targets, 0.5, seed=0)
    train, test = (
        stream_views(images, transform, runtime=runtime) for images in (splits.train.take(half), splits.test)
    )
    embeddings = [torch.cat([encoder_extractor(encoder)(views).detach() for views in part]) for part in (train, test)]
    labels, targets = torch.from_numpy(splits.train.targets[half]), torch.from_numpy(splits.test.targets)
    votes = knn_votes(embeddings[0], labels, embeddings[1], k=(1,), classes=10)[1]
    assert result.metrics["knn1@0.5"] == pytest.approx(float((votes.argmax(1) == targets).double().mean()))


def test_run_with_several_labels_returns_mean_average_precision(tmp_path: Path) -> None:
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
    result = run(tiny_resolved(), config)
    assert result.main == "knn5_map"
    assert set(result.metrics) == {"knn3_map", "knn5_map", "raw_pixels", "color_histogram"}
    assert result.metrics["color_histogram"] == 1.0
    assert result.details["per_class"].keys() == {"r", "g"}


@pytest.mark.parametrize("wrong", [{"k": ()}, {"k": (0,)}, {"temperature": 0.0}, {"label_fraction": (2.0,)}])
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        KNNConfig(**wrong)
