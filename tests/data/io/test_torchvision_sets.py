"""Data sets of torchvision, read from small imitations of their files."""

import gzip
import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets

from repre.data.io.sources import open_source


def test_fashion_mnist_from_its_four_files(tmp_path: Path) -> None:
    images, labels = np.arange(3 * 784).astype(np.uint8), np.array([9, 0, 4], np.uint8)
    for part in ("train", "t10k"):
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(16) + images.tobytes()))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(bytes(8) + labels.tobytes())
    source = open_source(f"fashion-mnist:{tmp_path}")
    assert source.labels is not None
    assert source.labels.tolist() == [9, 0, 4]
    assert source.load(1).shape == (28, 28, 3)
    assert (source.load(1)[..., 0].ravel() == images[784:1568]).all()
    assert open_source(f"fashion-mnist:{tmp_path}", channels=1, split="val").load(0).shape == (28, 28, 1)


def test_cifar10_and_stl10_from_small_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    entry = {"data": np.full((2, 3072), 7, np.uint8), "labels": [3, 8]}
    files = {f"data_batch_{i}": entry for i in range(1, 6)} | {"test_batch": entry}
    files["batches.meta"] = {"label_names": [str(i) for i in range(10)]}
    sums = {}
    for name, content in files.items():
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    kind = torchvision.datasets.CIFAR10
    monkeypatch.setattr(kind, "train_list", [(f"data_batch_{i}", sums[f"data_batch_{i}"]) for i in range(1, 6)])
    monkeypatch.setattr(kind, "test_list", [("test_batch", sums["test_batch"])])
    monkeypatch.setattr(kind, "meta", {"filename": "batches.meta", "key": "label_names", "md5": sums["batches.meta"]})
    train, val = (open_source(f"cifar10:{tmp_path}", split=split) for split in ("train", "val"))
    assert (len(train), len(val)) == (10, 2)
    assert train.load(0).shape == (32, 32, 3)
    assert val.labels is not None
    assert val.labels.tolist() == [3, 8]
