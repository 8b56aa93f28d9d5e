"""Composed scenes: pixels agree with masks, boxes and labels, and the same config gives the same scenes."""

from pathlib import Path

import numpy as np
import pytest
from experiments.build_scenes import write_main_objects
from experiments.compose_scenes import ComposeConfig, Composer, silhouette
from experiments.datasets import labels_spec, main_objects, masks_spec
from PIL import Image

from repre.data.labels.boxes import open_boxes
from repre.data.labels.classes import open_labeled
from repre.data.labels.masks import open_masks
from repre.data.tools.write import write_sources
from repre.errors import UserError


class Squares:
    """Objects that an image shows clearly: every class is a square of its own color."""

    classes = ["red", "green"]  # noqa: RUF012

    def draw(self, rng: np.random.Generator) -> tuple[Image.Image, int, str]:
        label = int(rng.integers(2))
        return Image.new("RGBA", (20, 20), ((255, 0, 0, 255), (0, 255, 0, 255))[label]), label, f"square {label}"


def composer(split: str, count: int = 12, seed: int = 0) -> Composer:
    gray = [Image.new("RGB", (90, 70), (90, 90, 90))]
    return Composer(count, Squares(), gray, ComposeConfig(size=48, seed=seed), split)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"max_objects": 9}, "1 to 8 objects"), ({"size": 16}, "--size"), ({"fold": 3}, "--fold")],
)
def test_wrong_settings_are_refused_by_name(settings: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ComposeConfig(**settings)  # type: ignore[arg-type]


def test_scenes_agree_with_their_masks_and_are_reproducible() -> None:
    for index in range(12):
        scene = composer("train").scene(index)
        assert np.array_equal(scene.image, composer("train").scene(index).image)
        for number, label in enumerate(scene.classes):
            mask = scene.instances == number + 1
            assert (scene.semantic[mask] == label + 1).all()
            assert scene.image[mask][:, label].mean() > 180 > scene.image[mask][:, 1 - label].mean()
            x, y, width, height = scene.boxes[number].astype(int)
            assert mask[y : y + height, x : x + width].sum() == mask.sum() > 0
        assert scene.label == scene.classes[0]
        areas = [(scene.instances == number + 1).sum() for number in range(len(scene.classes))]
        assert areas[0] == max(areas)
    assert not np.array_equal(composer("train").scene(0).image, composer("val").scene(0).image)
    assert not np.array_equal(composer("train").scene(0).image, composer("train", seed=1).scene(0).image)


def test_a_silhouette_includes_dark_parts_inside() -> None:
    gray = np.zeros((28, 28), np.uint8)
    gray[5:20, 6:22] = 200
    gray[9:14, 9:14] = 0
    assert np.array_equal(silhouette(gray) > 0, np.pad(np.ones((15, 16), bool), ((5, 8), (6, 6))))


def test_every_evaluation_reads_the_written_scenes(tmp_path: Path) -> None:
    composers = {"train": composer("train"), "val": composer("val", 6)}
    folder = tmp_path / "scenes"
    write_sources(folder, composers)
    write_main_objects(folder, {split: scenes.main_objects() for split, scenes in composers.items()})
    labeled = open_labeled(labels_spec(folder))
    masks = open_masks(masks_spec(folder), split="val")
    boxes = open_boxes(f"coco:{folder}", split="val")
    assert masks.classes == ["background", "red", "green"]
    assert len(masks) == len(boxes) == len(labeled.test.targets) == 6
    for index, name in enumerate(main_objects(folder)):
        scene = composer("val", 6).scene(index)
        assert name == f"square {scene.label}"
        assert np.array_equal(masks.load(index)[1], scene.semantic)
        assert labeled.classes[labeled.test.targets[index]] == Squares.classes[scene.label]
