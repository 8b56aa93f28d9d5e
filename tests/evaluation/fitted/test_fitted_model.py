"""A loaded model predicts what the evaluation computed for the test images, bit for bit on the CPU."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from repre.errors import UserError
from repre.evaluation.fitted import fitted_segmenter
from repre.evaluation.fitted.fitted_folder import load_fitted
from repre.evaluation.fitted.fitted_model import PredictRuntime
from repre.evaluation.fitted.predictions import Boxes, Classes, DepthMap, Masks
from tests.evaluation.fitted.tiny_fits import KINDS, fit_boxes, fit_classes, fit_depth, fit_masks, record_logits

CPU = PredictRuntime(device="cpu", workers=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["linear", "finetune"])
def test_classes_equal_those_of_the_evaluation(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = fit_classes(name, tmp_path, monkeypatch, kind=kind)
    model = load_fitted(fitted.path)
    found = model.predict(fitted.images, runtime=CPU)
    assert len(found) == len(fitted.found) == 7
    for classes, scores in zip(found, fitted.found):
        assert isinstance(classes, Classes)
        assert np.array_equal(classes.probabilities, scores.softmax(0).numpy())
        assert classes.labels[0] == ("b", "g", "r")[int(scores.argmax())]
        assert list(classes.scores) == sorted(classes.scores, reverse=True)


@pytest.mark.parametrize("more", [{"tokens": True}, {"crop_pct": 0.7}, {"value_range": (0.0, 100.0)}, {"size": 48}])
def test_the_settings_of_the_preprocessing_are_kept(
    more: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = fit_classes("linear", tmp_path, monkeypatch, **more)
    found = load_fitted(fitted.path).predict(fitted.images, runtime=CPU)
    for classes, scores in zip(found, fitted.found):
        assert np.array_equal(classes.probabilities, scores.softmax(0).numpy())


@pytest.mark.parametrize("name", ["linear", "finetune"])
def test_several_labels_are_those_above_the_threshold(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = fit_classes(name, tmp_path, monkeypatch, multilabel=True)
    model = load_fitted(fitted.path)
    found = model.predict(fitted.images, threshold=0.3, runtime=CPU)
    for classes, scores in zip(found, fitted.found):
        probabilities = scores.sigmoid().numpy()
        assert np.array_equal(classes.probabilities, probabilities)
        assert set(classes.labels) == {model.classes[i] for i in np.flatnonzero(probabilities >= 0.3)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "more",
    [{}, {"frozen": False}, {"head": "upernet"}, {"levels": "last", "features": "raw", "window": "pad"},
     {"window": "resize", "value_range": (0.0, 128.0)}, {"short_side": 0, "overlap": 0.5}],
)  # fmt: skip
def test_masks_equal_those_of_the_evaluation(
    kind: str, more: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = fit_masks(tmp_path, monkeypatch, kind=kind, **more)
    seen = record_logits(monkeypatch, fitted_segmenter)
    found = load_fitted(fitted.path).predict(fitted.images, runtime=CPU)
    assert len(found) == len(fitted.found) == 5
    for masks, (logits, _), (expected_logits, expected) in zip(found, seen, fitted.found, strict=True):
        assert torch.equal(logits, expected_logits)
        assert isinstance(masks, Masks)
        assert masks.labels.shape == (48, 48)
        assert np.array_equal(masks.labels, expected)
        assert sum(masks.shares().values()) == pytest.approx(1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "more",
    [{}, {"frozen": False}, {"levels": "last", "features": "raw", "window": "pad", "max_depth": 3.0},
     {"window": "resize", "value_range": (0.0, 128.0), "label_fraction": (1.0, 0.5)}],
)  # fmt: skip
def test_depth_equals_that_of_the_evaluation(
    kind: str, more: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = fit_depth(tmp_path, monkeypatch, kind=kind, **more)
    found = load_fitted(fitted.path).predict(fitted.images, runtime=CPU)
    assert len(found) == len(fitted.found) == 5
    for depth, expected in zip(found, fitted.found):
        assert isinstance(depth, DepthMap)
        assert depth.depth.dtype == np.float32
        assert depth.depth.shape == (50, 60)
        assert np.array_equal(depth.depth, expected)


@pytest.mark.parametrize(
    "more", [{}, {"frozen": True, "masks": False}, {"attention": "windowed", "window": 4, "size": 32}]
)
def test_boxes_equal_those_of_the_evaluation(
    more: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = fit_boxes(tmp_path, monkeypatch, **more)
    model = load_fitted(fitted.path)
    found = model.predict(fitted.images, runtime=CPU)
    assert sum(len(boxes.scores) for boxes in found) > 0
    for boxes, expected in zip(found, fitted.found):
        assert isinstance(boxes, Boxes)
        corners = boxes.boxes.copy()
        corners[:, 2:] += corners[:, :2]
        assert np.allclose(corners, expected.boxes)
        assert boxes.scores == tuple(expected.scores.tolist())
        assert [model.classes.index(label) + 1 for label in boxes.labels] == expected.labels.tolist()
        assert (boxes.masks is None) == (expected.masks is None)
        if boxes.masks is not None:
            assert np.array_equal(boxes.masks, expected.masks)


def test_images_in_memory_are_those_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = fit_classes("linear", tmp_path, monkeypatch)
    model = load_fitted(fitted.path)
    paths = fitted.images[:3]
    expected = model.predict(paths, runtime=CPU)
    arrays = [np.asarray(Image.open(path)) for path in paths]
    kinds: list[list[Any]] = [
        [Image.open(path) for path in paths],
        arrays,
        [torch.from_numpy(array.copy()).permute(2, 0, 1) for array in arrays],
        [paths[0], arrays[1], Image.open(paths[2])],
        [str(path) for path in paths],
    ]
    for images in kinds:
        found = model.predict(images, runtime=CPU)
        for one, other in zip(found, expected, strict=True):
            assert np.array_equal(one.probabilities, other.probabilities)
    (alone,) = model.predict(paths[0], runtime=CPU)
    assert alone.labels == expected[0].labels
    floats = torch.from_numpy(arrays[0].copy()).permute(2, 0, 1).float() / 255
    (scaled,) = model.predict(floats, runtime=CPU)
    np.testing.assert_allclose(scaled.probabilities, alone.probabilities, rtol=1e-4)
    folder = model.predict(tmp_path / "images", runtime=CPU)
    assert [classes.name for classes in folder] == sorted(map(str, (tmp_path / "images").iterdir()))


def test_gray_images_and_other_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = fit_classes("linear", tmp_path, monkeypatch)
    model = load_fitted(fitted.path)
    gray = np.arange(900, dtype=np.uint8).reshape(30, 30)
    one, other = (model.predict(image, runtime=CPU)[0].probabilities for image in (gray, np.stack([gray] * 3, axis=2)))
    assert np.array_equal(one, other)
    with pytest.raises(UserError, match="image 0 cannot be read: values of type int64"):
        model.predict(gray.astype(np.int64), runtime=CPU)
    for wrong, message in (
        ([], "no images"),
        (3, "no images"),
        ([object()], "object is not an image"),
        ("nowhere", "no folder"),
    ):
        with pytest.raises(UserError, match=message):
            model.predict(wrong, runtime=CPU)


def test_an_unreadable_image_is_named_or_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = fit_classes("linear", tmp_path, monkeypatch)
    model = load_fitted(fitted.path)
    fitted.images[1].write_bytes(b"nothing")
    with pytest.raises(UserError, match=f"{fitted.images[1]} cannot be read: not an image"):
        model.predict(fitted.images, runtime=CPU)
    found = model.predict(fitted.images, skip_unreadable=True, runtime=CPU)
    assert [classes.name for classes in found] == [str(path) for path in fitted.images if path != fitted.images[1]]


def test_memory_that_runs_out_halves_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = fit_classes("finetune", tmp_path, monkeypatch)
    model: Any = load_fitted(fitted.path)
    expected = model.predict(fitted.images, runtime=CPU)
    sizes: list[int] = []
    scores = model.network.scores

    def little_memory(images: torch.Tensor, precision: torch.dtype) -> torch.Tensor:
        sizes.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError
        return scores(images, precision)

    monkeypatch.setattr(model.network, "scores", little_memory)
    found = model.predict(fitted.images, runtime=CPU)
    assert sizes == [4, 2, 2, 2, 1]
    for one, other in zip(found, expected):
        np.testing.assert_allclose(one.probabilities, other.probabilities, rtol=1e-5)


def test_workers_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = fit_masks(tmp_path, monkeypatch)
    model = load_fitted(fitted.path)
    images = fitted.images * 4  # more than are read in this process
    with_workers = model.predict(images, runtime=PredictRuntime(device="cpu", workers=2))
    for masks, expected in zip(with_workers, model.predict(images, runtime=CPU), strict=True):
        assert np.array_equal(masks.labels, expected.labels)
