"""Evaluations on a device with little memory give what they give on a large one, or say in one message what to change."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from repre.errors import RunError
from repre.evaluation.classification import finetune, knn, linear
from repre.evaluation.classification.finetune import Classifier, FinetuneConfig, classification_losses
from repre.evaluation.classification.knn import KNNConfig, knn_votes
from repre.evaluation.classification.linear import LinearConfig
from repre.evaluation.detection import detect
from repre.evaluation.fit import FitConfig
from repre.evaluation.result import Result
from repre.evaluation.segmentation import segment
from repre.evaluation.segmentation.segment import SegmentConfig
from tests.evaluation.detection.test_detect import QUICK
from tests.evaluation.detection.test_detect import encoder as detector_encoder
from tests.evaluation.tiny_eval import on_cpu, tiny_resolved
from tests.little_memory import little_memory


def nothing_is_trained() -> bool:
    return not torch.is_grad_enabled()


CONFIGS: dict[str, tuple[Callable[..., Result], Any]] = {
    "knn": (knn.run, KNNConfig(data="scenes:20:16", baselines=True)),
    "linear": (linear.run, LinearConfig(data="scenes:20:16", steps=20)),
    "segment": (segment.run, SegmentConfig(data="scenes:8:24", size=16, fit=FitConfig(epochs=1, batch_size=4))),
    "segment-trained": (
        segment.run,
        SegmentConfig(data="scenes:8:24", size=16, frozen=False, fit=FitConfig(epochs=1, batch_size=4)),
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_passes_without_gradient_are_halved(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, config = CONFIGS[name]
    expected = run(tiny_resolved(), replace(config, runtime=on_cpu(tmp_path / "a")))
    sizes = little_memory(monkeypatch, 3, when=nothing_is_trained)
    found = run(tiny_resolved(), replace(config, runtime=on_cpu(tmp_path / "b")))
    assert max(sizes) > 3
    assert sizes.count(max(sizes)) == 1  # the size that fits is kept
    assert found.metrics == pytest.approx(expected.metrics, abs=1e-3)


def test_detections_are_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = detect.run(detector_encoder(), QUICK)
    sizes = little_memory(monkeypatch, 1, when=nothing_is_trained)
    assert detect.run(detector_encoder(), QUICK).metrics == pytest.approx(expected.metrics, abs=1e-3)
    assert max(sizes) > 1


@pytest.mark.parametrize("labels", [torch.arange(50) % 5, (torch.rand(50, 5) > 0.5).float()])
def test_votes_are_halved(labels: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = torch.randn(50, 8), torch.randn(30, 8)
    expected = knn_votes(train, labels, test, k=(3, 10), classes=5)
    topk = Tensor.topk

    def limited(x: Tensor, *args: Any, **settings: Any) -> Any:
        if len(x) > 4:
            raise torch.OutOfMemoryError
        return topk(x, *args, **settings)

    monkeypatch.setattr(Tensor, "topk", limited)
    votes = knn_votes(train, labels, test, k=(3, 10), classes=5)
    assert votes.keys() == expected.keys()
    for k, found in votes.items():
        torch.testing.assert_close(found, expected[k])


# ------------------------------------------------------------------------------------------------------- trainings


@pytest.mark.parametrize("multilabel", [False, True])
def test_the_losses_of_pieces_add_up_to_that_of_the_batch(multilabel: bool) -> None:
    """With mixing, smoothing and drop path, which draw for the whole batch, and pieces of several sizes."""
    images = torch.randn(7, 3, 16, 16)
    labels = (torch.rand(7, 4) > 0.5).float() if multilabel else torch.arange(7) % 4
    gradients, losses = [], []
    for size in (7, 3, 1):
        torch.manual_seed(0)
        model = Classifier(tiny_resolved().build(seed=0, drop_path=0.5), 4).train()
        torch.manual_seed(1)
        total = torch.zeros(())
        mixing = {"smoothing": 0.1, "mixup": 0.8, "cutmix": 1.0}
        for loss in classification_losses(model, images, labels, size=size, **mixing):
            loss.backward()
            total += loss.detach()
        losses.append(float(total))
        gradients.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
        assert model.encoder.batch_slice.index is None
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
    for other in gradients[1:]:
        assert len(other) == len(gradients[0])
        for one, two in zip(gradients[0], other):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


def test_fine_tuning_goes_on_in_pieces_with_the_same_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = FitConfig(epochs=2, batch_size=8, layer_decay=0.9, drop_path=0.3, lr=1e-4)
    config = FinetuneConfig(data="scenes:24:16", fit=fit, mixup=0.8, runtime=on_cpu(tmp_path))
    expected = finetune.run(tiny_resolved(), config)
    sizes = little_memory(monkeypatch, 3)
    found = finetune.run(tiny_resolved(), config)
    assert sizes[:3] == [8, 4, 2]
    assert found.details["fit"]["loss"] == pytest.approx(expected.details["fit"]["loss"], rel=1e-4)
    printed = capsys.readouterr()
    assert (printed.out + printed.err).count("memory ran out; the step is repeated with 2 images at once") == 1


def test_a_batch_that_cannot_be_cut_is_named_with_its_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    little_memory(monkeypatch, 3, when=torch.is_grad_enabled)
    trained = replace(CONFIGS["segment-trained"][1], runtime=on_cpu(tmp_path))
    detector = replace(QUICK, fit=replace(QUICK.fit, batch_size=4))
    normalized = tiny_resolved("random:resnet18[image_size=32]")
    classifier = FinetuneConfig(data="scenes:24:16", fit=FitConfig(epochs=1, batch_size=8), runtime=on_cpu(tmp_path))
    for run, resolved, config, reason in (
        (segment.run, tiny_resolved(), trained, "compares the images of a batch"),
        (detect.run, detector_encoder(), detector, "compares the images of a batch"),
        (finetune.run, normalized, classifier, "bn1 normalizes over the batch"),
    ):
        with pytest.raises(RunError, match=rf"memory ran out at \d images.*{reason}.*smaller --fit\.batch-size"):
            run(resolved, config)


def test_one_image_that_does_not_fit_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    little_memory(monkeypatch, 0)
    config = FinetuneConfig(data="scenes:24:16", fit=FitConfig(epochs=1, batch_size=8), runtime=on_cpu(tmp_path))
    with pytest.raises(RunError, match="one image at once; use a smaller --size"):
        finetune.run(tiny_resolved(), config)
