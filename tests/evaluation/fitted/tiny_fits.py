"""Tiny evaluations on images in files, with what they computed for the test images before it became metrics."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from repre.data.scenes import ScenesConfig
from repre.data.tools.write import write_scenes
from repre.evaluation.classification import finetune, linear
from repre.evaluation.classification.finetune import FinetuneConfig
from repre.evaluation.classification.linear import LinearConfig
from repre.evaluation.depth import depth
from repre.evaluation.depth.depth import DepthConfig
from repre.evaluation.detection.coco_ap import Evaluator
from repre.evaluation.detection.detect import DetectConfig
from repre.evaluation.fit import FitConfig
from repre.evaluation.options import RuntimeOptions
from repre.evaluation.runner import evaluate
from repre.evaluation.segmentation import segment
from repre.evaluation.segmentation.segment import SegmentConfig
from repre.evaluation.segmentation.segmenter import class_map
from repre.models.encoder import EncoderConfig
from repre.models.resolve import ResolvedEncoder
from tests.tiny import ENCODERS

FIT = FitConfig(epochs=1, batch_size=4, lr=1e-3, drop_path=0.1)
KINDS = ENCODERS | {
    "convnext": EncoderConfig(
        name="convnext_atto", image_size=64, model_args={"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 24)}
    )
}


def runtime(root: Path, *, batch: int = 4) -> RuntimeOptions:
    return RuntimeOptions(device="cpu", workers=0, batch=batch, cache=root / "cache")


def encoder(kind: str = "vit") -> ResolvedEncoder:
    return ResolvedEncoder(f"random:{kind}", KINDS[kind], None, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


def labeled_files(root: Path, *, multilabel: bool = False, count: int = 14) -> tuple[str, list[Path]]:
    """A table of images of several sizes; gives the spec and the test images in order."""
    rng = np.random.default_rng(0)
    rows, tests = [], []
    (root / "images").mkdir(parents=True)
    for number in range(count):
        label = ("r", "g", "r;g" if multilabel else "b")[number % 3]
        pixels = rng.integers(0, 256, (30 + 3 * number, 60 - 2 * number, 3)).astype(np.uint8)
        path = root / "images" / f"{number:02d}.png"
        Image.fromarray(pixels).save(path)
        split = "test" if number >= count - 7 else "train"
        tests += [path] if split == "test" else []
        rows.append(f"images/{path.name},{label},{split}")
    (root / "labels.csv").write_text("path,label,split\n" + "\n".join(rows) + "\n")
    return f"csv:{root / 'labels.csv'}", tests


def scene_files(root: Path, *, train: int = 8, val: int = 5, size: int = 48) -> Path:
    """Scenes as files, with masks and boxes."""
    write_scenes(root / "scenes", {"train": train, "val": val}, config=ScenesConfig(size=size))
    return root / "scenes"


@dataclass
class Fitted:
    """A kept model and what its evaluation computed for the test images."""

    path: Path
    """The result."""
    images: list[Path]
    """The test images."""
    found: list[Any]
    """Scores [K], logits of windows with the map of classes [H, W], or detections, one for each."""


def fit_classes(
    name: str, root: Path, monkeypatch: pytest.MonkeyPatch, *, kind: str = "vit", multilabel: bool = False, **more: Any
) -> Fitted:
    data, images = labeled_files(root, multilabel=multilabel)
    module: Any = linear if name == "linear" else finetune
    original, seen = module.classification, []

    def classification(scores: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
        if len(scores) == len(images):
            seen.append(scores.clone())
        return original(scores, targets)

    monkeypatch.setattr(module, "classification", classification)
    config: Any
    if name == "linear":
        config = LinearConfig(data=data, steps=20, lrs=(0.1,), runtime=runtime(root), **more)
    else:
        config = FinetuneConfig(data=data, fit=FIT, runtime=runtime(root), **more)
    result = evaluate(name, encoder(kind), config, out=root / "out")
    return Fitted(Path(result["path"]), images, list(seen[-1]))


def fit_masks(root: Path, monkeypatch: pytest.MonkeyPatch, *, kind: str = "vit", **more: Any) -> Fitted:
    scenes = scene_files(root)
    seen = record_logits(monkeypatch, segment)
    data = f"pairs:{scenes}/train/images,{scenes}/train/masks"
    test = f"pairs:{scenes}/val/images,{scenes}/val/masks"
    config = SegmentConfig(
        data=data, test=test, width=16, fit=FIT, runtime=more.pop("runtime", runtime(root, batch=6)), **more
    )
    result = evaluate("segment", encoder(kind), config, out=root / "out")
    images = sorted((scenes / "val" / "images").iterdir())
    return Fitted(Path(result["path"]), images, seen[-len(images) :])


def record_logits(monkeypatch: pytest.MonkeyPatch, module: Any) -> list[tuple[torch.Tensor, np.ndarray]]:
    """The logits of windows that a module makes maps of classes of, and these maps."""
    seen = []

    def recorded(windows: torch.Tensor, *arguments: Any) -> torch.Tensor:
        labels = class_map(windows, *arguments)
        seen.append((windows.clone(), labels.numpy().copy()))
        return labels

    monkeypatch.setattr(module, "class_map", recorded)
    return seen


def fit_depth(root: Path, monkeypatch: pytest.MonkeyPatch, *, kind: str = "vit", **more: Any) -> Fitted:
    """Depth of 1 to 5 m, told by the brightness; of every sixth pixel it is unknown."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 5)):
        for part in ("images", "depth"):
            (root / split / part).mkdir(parents=True)
        for number in range(count):
            meters = rng.uniform(1, 5, (50, 60)).astype(np.float32)
            gray = (meters * 50).astype(np.uint8)[..., None].repeat(3, 2)
            Image.fromarray(gray).save(root / split / "images" / f"{number}.png")
            meters[::2, ::3] = 0
            np.save(root / split / "depth" / f"{number}.npy", meters)
    seen, original = [], depth.predict_depth

    def predict_depth(*arguments: Any, **settings: Any) -> torch.Tensor:
        found = original(*arguments, **settings)
        seen.append(found.numpy().copy())
        return found

    monkeypatch.setattr(depth, "predict_depth", predict_depth)
    data, test = (f"pairs:{root / split}/images,{root / split}/depth" for split in ("train", "val"))
    config = DepthConfig(data=data, test=test, fit=FIT, runtime=runtime(root, batch=6), **more)
    result = evaluate("depth", encoder(kind), config, out=root / "out")
    images = sorted((root / "val" / "images").iterdir())
    return Fitted(Path(result["path"]), images, seen[: len(images)])


def fit_boxes(root: Path, monkeypatch: pytest.MonkeyPatch, *, kind: str = "vit", **more: Any) -> Fitted:
    scenes = scene_files(root, train=4, val=3)
    seen: list[Any] = []
    add = Evaluator.add

    def adding(self: Evaluator, **arguments: Any) -> None:
        seen.append(arguments["detections"])
        add(self, **arguments)

    monkeypatch.setattr(Evaluator, "add", adding)
    config = DetectConfig(
        data=f"coco:{scenes}", width=16, fit=replace(FIT, batch_size=2), runtime=runtime(root, batch=2), **more
    )
    result = evaluate("detect", encoder(kind), config, out=root / "out")
    names = sorted((scenes / "val" / "images").iterdir())
    return Fitted(Path(result["path"]), names, seen[-len(names) :])


FITS: dict[str, Callable[..., Fitted]] = {
    "linear": lambda root, patch, **more: fit_classes("linear", root, patch, **more),
    "finetune": lambda root, patch, **more: fit_classes("finetune", root, patch, **more),
    "segment": fit_masks,
    "depth": fit_depth,
    "detect": fit_boxes,
}
