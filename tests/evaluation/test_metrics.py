"""Metrics of classifiers against scikit-learn."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, top_k_accuracy_score

from repre.errors import UserError
from repre.evaluation.metrics import average_precision, check_fractions, classification, per_class, with_fraction


@pytest.mark.parametrize("levels", [3, 10**6])
def test_average_precision_equals_scikit_learn(levels: int) -> None:
    """With few levels most scores are equal to others."""
    rng = np.random.default_rng(0)
    scores = rng.integers(0, levels, (50, 4)).astype(np.float32)
    targets = (rng.random((50, 4)) < [0.5, 0.1, 0.9, 0.3]).astype(np.float32)
    computed = average_precision(torch.from_numpy(scores), torch.from_numpy(targets))
    expected = [average_precision_score(targets[:, c], scores[:, c]) for c in range(4)]
    np.testing.assert_allclose(computed.numpy(), expected, rtol=1e-9)
    metrics = classification(torch.from_numpy(scores), torch.from_numpy(targets))
    assert metrics == {"map": pytest.approx(np.mean(expected))}


def test_a_class_without_positives_does_not_count() -> None:
    scores, targets = torch.tensor([[0.9, 0.1], [0.2, 0.3]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    assert classification(scores, targets) == {"map": 1.0}
    assert per_class(scores, targets, ["a", "b"]) == {"a": 1.0, "b": None}


def test_accuracies_equal_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.random((200, 12)).astype(np.float32), rng.integers(0, 12, 200)
    metrics = classification(torch.from_numpy(scores), torch.from_numpy(labels))
    assert metrics["accuracy"] == pytest.approx((scores.argmax(1) == labels).mean())
    assert metrics["top5"] == pytest.approx(top_k_accuracy_score(labels, scores, k=5))
    assert set(classification(torch.rand(5, 9), torch.zeros(5, dtype=torch.long))) == {"accuracy"}


def test_accuracy_per_class() -> None:
    scores = torch.eye(3)[torch.tensor([0, 0, 1])]
    accuracies = per_class(scores, torch.tensor([0, 1, 1]), ["a", "b", "c"])
    assert accuracies == {"a": 1.0, "b": 0.5, "c": None}
    assert not any(value is not None and math.isnan(value) for value in accuracies.values())


def test_names_of_metrics_at_label_fractions() -> None:
    check_fractions((0.01, 1.0))
    names = [with_fraction("accuracy", fraction, (0.01, 0.1)) for fraction in (0.01, 0.1)]
    assert names == ["accuracy@0.01", "accuracy"]
    for wrong in ((), (0.0,), (1.5,), (0.5, 0.5)):
        with pytest.raises(UserError, match="label_fraction"):
            check_fractions(wrong)
