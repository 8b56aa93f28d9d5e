"""What a ``--data`` string means if objects have boxes and masks: images with their objects.

scenes, scenes:COUNT, scenes:COUNT:SIZE   the embedded scenes
coco:IMAGES,ANNOTATIONS.json              a folder and COCO's JSON; a fifth is held out to test, unless other data are named
coco:DIR                                  train2017/ and val2017/ beside annotations/instances_*.json, or
                                          train/ and val/, each with images/ and annotations.json
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from repre.data.io.decode import in_range
from repre.data.io.sources import open_source
from repre.data.labels.coco_boxes import CocoBoxes, find_split
from repre.data.labels.coco_masks import encode_mask
from repre.data.labels.objects import BoxSource, Objects
from repre.data.scenes import Scenes
from repre.errors import UserError, near_names

__all__ = ["BoxSource", "Objects", "open_boxes"]


def open_boxes(
    spec: str,
    *,
    split: str = "train",
    channels: int = 3,
    whole: bool = False,
    value_range: tuple[float, float] | None = None,
) -> BoxSource:
    """Opens what `spec` names; see the top of this file.

    Args:
        split: train or val.
        channels: channels of the images.
        whole: hold nothing out of a single JSON, because other data are tested on.
        value_range: pixel values that become 0 and 1; None leaves the images as they are.

    Raises:
        UserError: the data do not exist, or something in the JSON is wrong.
    """
    if split not in ("train", "val"):
        raise UserError(f"boxes have no split {split!r}; there are train and val")
    source = _open(spec, split, channels, whole=whole)
    return source if value_range is None else RangedBoxes(source, value_range)


def _open(spec: str, split: str, channels: int, *, whole: bool) -> BoxSource:
    name, _, rest = spec.partition(":")
    if name == "scenes":
        return SceneBoxes(spec, split)
    if name != "coco":
        if Path(spec).expanduser().exists():
            raise UserError(f"--data {spec}: where are the boxes? Write coco:IMAGES,ANNOTATIONS.json or coco:DIR")
        raise UserError(f"--data {spec}: no data with boxes is called {name!r}{near_names(name, ['scenes', 'coco'])}")
    images, comma, annotations = rest.partition(",")
    if comma:
        source = CocoBoxes(spec, Path(images).expanduser(), Path(annotations).expanduser(), channels=channels)
        return source if whole else source.split(split)
    return CocoBoxes(spec, *find_split(spec, Path(rest).expanduser(), split), channels=channels)


class RangedBoxes:
    """Another source whose images are scaled from a declared value range to [0, 1], float32."""

    def __init__(self, source: BoxSource, value_range: tuple[float, float]) -> None:
        self.source, self.value_range = source, value_range
        self.spec, self.classes = source.spec, source.classes

    def __len__(self) -> int:
        return len(self.source)

    def load(self, index: int) -> Objects:
        objects = self.source.load(index)
        return objects._replace(image=in_range(objects.image, self.value_range))

    def truth(self, index: int) -> list[dict[str, Any]]:
        return self.source.truth(index)

    def size(self, index: int) -> tuple[int, int]:
        return self.source.size(index)

    def describe(self, index: int) -> str:
        return self.source.describe(index)

    def fingerprint(self) -> str:
        return f"{self.source.fingerprint()} {self.value_range}"


class SceneBoxes:
    """The embedded scenes."""

    def __init__(self, spec: str, split: str) -> None:
        scenes = open_source(spec, channels=3)
        assert isinstance(scenes, Scenes)
        self.scenes = scenes if split == "train" else scenes.held_out(dense=True)
        self.spec, self.classes = spec, list(scenes.classes)

    def __len__(self) -> int:
        return len(self.scenes)

    def load(self, index: int) -> Objects:
        scene = self.scenes.scene(index)
        count = len(scene.classes)
        x, y, width, height = scene.boxes.T
        return Objects(
            image=scene.image,
            boxes=np.stack([x, y, x + width, y + height], axis=1),
            labels=scene.classes + 1,
            masks=scene.instances[None] == np.arange(1, count + 1)[:, None, None],
            crowd=np.zeros(count, bool),
        )

    def truth(self, index: int) -> list[dict[str, Any]]:
        objects = self.load(index)
        return [
            {
                "bbox": [float(value) for value in (left, top, right - left, bottom - top)],
                "category_id": int(label),
                "segmentation": encode_mask(mask),
                "area": float(mask.sum()),
                "iscrowd": 0,
            }
            for (left, top, right, bottom), label, mask in zip(objects.boxes, objects.labels, objects.masks)
        ]

    def size(self, index: int) -> tuple[int, int]:
        return self.scenes.config.size, self.scenes.config.size

    def describe(self, index: int) -> str:
        return self.scenes.describe(index)

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.scenes.spec} {self.scenes.split} {self.scenes.config}".encode()).hexdigest()
