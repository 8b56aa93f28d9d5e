"""k-NN against its slow loops, and the two baselines on images where the answer is known."""

import math

import pytest
import torch

from repre.data.views import ViewsConfig, moco_v3_views
from repre.evaluate.features import colour_histogram, extract, raw_pixels
from repre.evaluate.knn import knn_accuracy, knn_predict


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


def test_histogram_counts_colours_and_forgets_places() -> None:
    views: ViewsConfig = moco_v3_views(16)
    mean, std = views.statistics(3)
    image = torch.rand(1, 3, 16, 16)
    moved = image.roll((5, 3), (2, 3))
    features = extract((torch.cat([image, moved, 1 - image]) - mean) / std, colour_histogram(views))
    torch.testing.assert_close(features[0], features[1])
    assert not torch.allclose(features[0], features[2])
    torch.testing.assert_close(features.square().sum(1), torch.ones(3))


def test_raw_pixels_ignore_brightness() -> None:
    image = torch.rand(1, 3, 4, 4)
    torch.testing.assert_close(raw_pixels(image), raw_pixels(image + 2.0))
