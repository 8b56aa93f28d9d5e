"""Metrics of the contrastive task against slow loops."""

import pytest
import torch

from repre.frameworks.contrast_metrics import negative_metrics, positive_mask, retrieval_accuracy
from tests.oracles import metrics as slow

CPU = torch.device("cpu")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_effective_negatives_equal_the_slow_loops(temperature: float) -> None:
    queries, keys = normal(4, 6), normal(9, 6, seed=1)
    positive = positive_mask(4, 9, offset=3, device=CPU)
    metrics = negative_metrics(queries, keys, positive, temperature=temperature)
    expected = slow.effective_negatives(queries, keys, positive, temperature)
    assert float(metrics["effective_negatives"]) == pytest.approx(expected, rel=1e-5)
    assert float(metrics["negative_share"]) == pytest.approx(expected / 8, rel=1e-5)


def test_positives_start_at_the_offset() -> None:
    assert positive_mask(4, 9, offset=3, device=CPU).nonzero().tolist() == [[0, 3], [1, 4], [2, 5], [3, 6]]


def test_retrieval_accuracy_counts_queries_nearest_to_their_own_key() -> None:
    keys = torch.eye(4)
    queries = 3 * keys + 0.1
    assert float(retrieval_accuracy(queries, keys)) == 1
    assert float(retrieval_accuracy(queries[[0, 1, 3, 2]], keys)) == 0.5
