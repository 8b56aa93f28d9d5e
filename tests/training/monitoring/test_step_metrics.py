"""Metrics of a step against known answers."""

import pytest
import torch

from repre.training.monitoring.embedding_metrics import normalized_std
from repre.training.monitoring.step_metrics import WeightChange, step_metrics
from repre.types import FrameworkOutput


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_step_metrics_join_the_frameworks_with_those_of_the_embeddings() -> None:
    student, teacher = normal(20, 8), normal(20, 8, seed=1)
    output = FrameworkOutput(
        loss=torch.tensor(1.0),
        embedding=student,
        teacher_embedding=teacher,
        metrics={"accuracy": torch.tensor(0.5)},
        state={"keys": teacher},
    )
    metrics = step_metrics(output)
    assert set(metrics) == {"accuracy", "batch_std", "agreement"}
    assert float(metrics["accuracy"]) == 0.5
    assert float(metrics["batch_std"]) == pytest.approx(float(normalized_std(student)))
    assert float(metrics["agreement"]) == pytest.approx(float(torch.cosine_similarity(student, teacher).mean()))


def test_there_is_no_agreement_without_a_teacher() -> None:
    output = FrameworkOutput(loss=torch.tensor(1.0), embedding=normal(20, 8))
    assert set(step_metrics(output)) == {"batch_std"}


def test_weight_change_measures_matrices_only() -> None:
    layer = torch.nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 4.0]]))
        change = WeightChange(layer)
        layer.weight.add_(torch.tensor([[0.0, 0.5]]))
        layer.bias.add_(100.0)
    metrics = change.metrics()
    assert float(metrics["update_size"]) == pytest.approx(0.1)
    assert float(metrics["weight_size"]) == pytest.approx(((9 + 4.5**2) / 2) ** 0.5)
