"""One confusion matrix over a data set, against slow loops and torchmetrics."""

import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from repre.data.labels.masks import IGNORE
from repre.evaluation.segmentation.miou import Confusion
from tests.oracles import segmentation as slow


def labels(classes: int, *, truth: range, predicted: range, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    t = torch.randint(truth.start, truth.stop, (6, 9, 11), generator=generator)
    p = torch.randint(predicted.start, predicted.stop, (6, 9, 11), generator=generator)
    p = torch.where(torch.rand(t.shape, generator=generator) < 0.5, t, p)
    return torch.where(torch.rand(t.shape, generator=generator) < 0.2, IGNORE, t), p


@pytest.mark.parametrize(
    ("truth", "predicted"),
    [(range(7), range(7)), (range(3), range(5)), (range(2, 5), range(1, 3)), (range(1), range(1))],
    ids=["all", "two only predicted", "some absent", "one"],
)
def test_scores_equal_slow_loops_and_torchmetrics(truth: range, predicted: range) -> None:
    t, p = labels(7, truth=truth, predicted=predicted)
    confusion = Confusion(7)
    reference = MulticlassJaccardIndex(7, average="macro", ignore_index=IGNORE)
    accuracy = MulticlassAccuracy(7, average="micro", ignore_index=IGNORE)
    for image in range(len(t)):  # image by image: the mean over images would be another metric
        confusion.add(t[image].to(torch.uint8), p[image])
        reference.update(p[image][None], t[image][None])
        accuracy.update(p[image][None], t[image][None])
    scores = confusion.scores()
    assert confusion.counts.tolist() == slow.confusion(t, p, 7)
    expected = slow.iou(t, p, 7)
    assert scores.iou == pytest.approx(expected)
    occurring = [value for value in expected if value is not None]
    assert scores.miou == pytest.approx(sum(occurring) / len(occurring))
    if set(predicted) <= set(truth):  # torchmetrics counts classes that are only predicted as 0
        assert scores.miou == pytest.approx(float(reference.compute()), abs=1e-6)
    assert scores.pixel_accuracy == pytest.approx(float(accuracy.compute()), abs=1e-6)


def test_ignored_pixels_count_nowhere() -> None:
    truth, predicted = torch.tensor([[0, IGNORE], [1, IGNORE]]), torch.tensor([[0, 2], [1, 0]])
    confusion = Confusion(3)
    confusion.add(truth, predicted)
    scores = confusion.scores()
    assert scores.iou == [1.0, 1.0, None]
    assert scores.miou == scores.pixel_accuracy == 1.0


def test_a_class_that_is_only_predicted_is_left_out_of_the_mean() -> None:
    confusion = Confusion(3)
    confusion.add(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 2, 1, 1]))
    scores = confusion.scores()
    assert scores.iou == [0.5, 1.0, None]
    assert scores.miou == 0.75
    assert scores.pixel_accuracy == 0.75


def test_no_counted_pixel_scores_nothing() -> None:
    confusion = Confusion(2)
    confusion.add(torch.full((2, 2), IGNORE), torch.zeros(2, 2, dtype=torch.int64))
    assert confusion.scores().miou == 0.0
    assert confusion.scores().iou == [None, None]


def test_a_label_out_of_range_is_loud() -> None:
    with pytest.raises(AssertionError, match="out of range"):
        Confusion(2).add(torch.tensor([2]), torch.tensor([0]))
