"""Evaluations with a value range read the measured values of DICOM, as the run did, not the window of the tags."""

import json
from pathlib import Path

import numpy as np
import pydicom
import pytest

from repre.data.labels.boxes import open_boxes
from repre.data.labels.classes import open_labeled
from repre.data.labels.masks import open_masks
from repre.data.labels.problems import Problems
from tests.data.io.test_dicom import dataset
from tests.data.labels.label_files import save_image

STORED = np.arange(20 * 24, dtype=np.uint16).reshape(20, 24)
RANGE = (-1000.0, 0.0)
EXPECTED = ((STORED.astype(np.float32) - 1024 + 1000) / 1000).clip(0, 1)


def ct(path: Path) -> Path:
    """A file whose window is black everywhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = dataset(STORED, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=5000, WindowWidth=10)
    pydicom.dcmwrite(path, made, enforce_file_format=True)
    return path


@pytest.mark.parametrize("kind", ["folders", "table"])
def test_classes(kind: str, tmp_path: Path) -> None:
    paths = [ct(tmp_path / name / f"{number}.dcm") for name in "ab" for number in range(2)]
    spec = str(tmp_path)
    if kind == "table":
        (tmp_path / "t.csv").write_text("path,label\n" + "".join(f"{path},{path.parent.name}\n" for path in paths))
        spec = f"csv:{tmp_path / 't.csv'}"
    shown = open_labeled(spec, problems=Problems(accept=True), channels=1).train.load(0)
    assert (shown == 0).all()
    raw = open_labeled(spec, problems=Problems(accept=True), channels=1, raw_values=True).train.load(0)
    assert (raw[..., 0] == STORED.astype(np.float32) - 1024).all()


def test_masks(tmp_path: Path) -> None:
    for number in range(2):
        ct(tmp_path / "im" / f"{number}.dcm")
        save_image(tmp_path / "m" / f"{number}.png", (STORED % 2).astype(np.uint8))
    spec = f"pairs:{tmp_path / 'im'},{tmp_path / 'm'}"
    assert (open_masks(spec, channels=1).load(0)[0] == 0).all()
    image, _ = open_masks(spec, channels=1, value_range=RANGE).load(0)
    np.testing.assert_allclose(image[..., 0], EXPECTED, atol=1e-6)


def test_boxes(tmp_path: Path) -> None:
    for number in range(5):
        ct(tmp_path / f"{number}.dcm")
    rows = [{"id": n, "file_name": f"{n}.dcm", "height": 20, "width": 24} for n in range(5)]
    objects = [{"id": n, "image_id": n, "category_id": 1, "bbox": [1, 1, 5, 5], "iscrowd": 0} for n in range(5)]
    content = {"images": rows, "annotations": objects, "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    spec = f"coco:{tmp_path},{tmp_path / 'a.json'}"
    assert (open_boxes(spec, channels=1).load(0).image == 0).all()
    image = open_boxes(spec, channels=1, value_range=RANGE).load(0).image
    np.testing.assert_allclose(image[..., 0], EXPECTED, atol=1e-6)
