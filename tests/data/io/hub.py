"""Data sets of Hugging Face for tests, without the network and with a cache of their own."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

CLASSES = ("cat", "dog", "owl")


@contextmanager
def offline(cache: Path) -> Iterator[None]:
    """`datasets` without downloads, and with its cache in a folder; also in processes that are started meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_HOME", str(cache))
        patch.setenv("HF_DATASETS_CACHE", str(cache / "datasets"))
        import datasets
        import huggingface_hub

        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # read when they were imported
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", cache / "datasets")
        bars = datasets.are_progress_bars_disabled()
        datasets.disable_progress_bars()
        yield
        if not bars:
            datasets.enable_progress_bars()


def encoded(number: int, side: int = 40) -> bytes:
    """A small noisy PNG."""
    pixels = np.random.default_rng(number).integers(0, 255, (side, side + number % 5, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def class_folders(root: Path, count: int = 24) -> Path:
    """Images in class folders, whose order is that of the rows of `rows`."""
    for number in range(count):
        path = root / CLASSES[number * 3 // count] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(number))
    return root


def rows(count: int = 24, **columns: Any) -> Any:
    """The images of `class_folders` as a `datasets.Dataset` with the columns image and label, and others."""
    import datasets

    features: dict[str, Any] = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))}
    values: dict[str, Any] = {
        "image": [{"bytes": encoded(number), "path": None} for number in range(count)],
        "label": [number * 3 // count for number in range(count)],
    }
    for name, (feature, content) in columns.items():
        features[name], values[name] = feature, content
    return datasets.Dataset.from_dict(values, features=datasets.Features(features))
