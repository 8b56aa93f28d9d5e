"""The evidence's data: packages are read and refused, groups stay within a fold, scenes are what their masks say."""

import hashlib
import io
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from experiments.build_scenes import write_first
from experiments.compose_scenes import ComposeConfig, Composer, outline
from experiments.datasets import ensure, first_of_idx, labels_of, masks_of, objects_of
from experiments.presets import Data
from experiments.source_images import assign_folds, class_of, group_of
from PIL import Image

from experiments import packages, sources
from repre.data.labels.boxes import open_boxes
from repre.data.labels.classes import open_labeled
from repre.data.labels.masks import open_masks
from repre.data.tools.write import write_sources
from repre.errors import UserError


def deb(content: dict[str, bytes]) -> bytes:
    """A Debian package of these files."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w:xz") as archive:
        for name, data in content.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    parts = b""
    for name, data in (("debian-binary", b"2.0"), ("data.tar.xz", tar.getvalue())):
        parts += f"{name:<16}{0:<12}{0:<6}{0:<6}{644:<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
    return b"!<arch>\n" + parts


def rcc(name: str, content: bytes, *, compressed: bool) -> bytes:
    """A resource file of Qt, version 2, with one folder and one file in it."""
    stored = struct.pack(">I", len(content)) + zlib.compress(content) if compressed else content
    payload = struct.pack(">I", len(stored)) + stored
    names, places = b"", []
    for word in ("folder", name):
        places.append(len(names))
        names += struct.pack(">HI", len(word), 0) + word.encode("utf-16-be")
    tree = struct.pack(">IHIIQ", 0, 2, 1, 1, 0)  # the root has one child, entry 1
    tree += struct.pack(">IHIIQ", places[0], 2, 1, 2, 0)
    tree += struct.pack(">IHHHIQ", places[1], int(compressed), 0, 0, 0, 0)
    head = 20
    return struct.pack(">4sIIII", b"qres", 2, head, head + len(tree), head + len(tree) + len(payload)) + (
        tree + payload + names
    )


def test_a_package_is_read_and_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = deb({"usr/share/a.png": b"one", "usr/b": b""})
    monkeypatch.setattr(packages, "PACKAGES", {"toys": ("1-1", hashlib.sha256(data).hexdigest())})
    with pytest.raises(UserError, match="apt-get download toys=1-1"):
        packages.find(tmp_path, "toys")
    path = tmp_path / "toys_1-1_all.deb"
    path.write_bytes(data + b"!")
    with pytest.raises(UserError, match="is not toys 1-1"):
        packages.find(tmp_path, "toys")
    path.write_bytes(data)
    assert dict(packages.files(packages.find(tmp_path, "toys"))) == {"usr/share/a.png": b"one", "usr/b": b""}


@pytest.mark.parametrize("compressed", [False, True])
def test_resource_files_of_qt_are_read(compressed: bool) -> None:
    assert list(packages.resources(rcc("sea1.webp", b"pixels" * 9, compressed=compressed))) == [
        ("folder/sea1.webp", b"pixels" * 9)
    ]


def test_classes_and_groups_of_stamps() -> None:
    assert class_of("animals/mammals/bovines/gnu") == "hoofed"
    assert class_of("animals/mammals/elephant") == "mammal"
    assert class_of("food/fruit/cartoon/apple") == class_of("vehicles/truck_mirror") == class_of("sports/ball") == ""
    assert group_of("animals/birds/rooster") == group_of("animals/birds/hen")
    assert group_of("animals/mammals/bovines/gnu-baby-stand") == group_of("animals/mammals/bovines/gnu")
    assert group_of("plants/flowers/flower4") != group_of("plants/flowers/flower7")
    assert group_of("symbols/money/us/coins/010dime") != group_of("symbols/money/us/coins/005nickel")


def test_folds_are_even_and_independent_of_the_order() -> None:
    members = [("bird", f"group {n % 9}") for n in range(18)] + [("fish", f"group {n}") for n in range(6)]
    folds = assign_folds(members)
    assert folds == assign_folds(members[::-1])
    for label, each in (("bird", 6), ("fish", 2)):
        assert [sum(folds[m] == fold for m in members if m[0] == label) for fold in range(3)] == [each] * 3


def test_two_calls_that_unpack_at_once_leave_each_other_s_pictures_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, seen = tmp_path / "unpacked", []
    cutouts = [
        ("bird/owl", "bird", "owl", Image.new("RGBA", (9, 9))),
        ("fish/eel", "fish", "eel", Image.new("RGBA", (5, 5))),
    ]

    def backgrounds(packages: Path) -> list[tuple[str, str, str, Image.Image]]:
        assert not folder.exists()  # nothing half done under its name
        if not seen:  # while the first call works, a second one begins and ends
            seen.append("first")
            with monkeypatch.context() as other:
                other.setattr("os.getpid", lambda: 1)
                seen.append(sources.unpack(packages, folder))
            seen.append((folder / "pictures" / "000.png").stat().st_ino)
        return []

    monkeypatch.setattr(sources, "_cutouts", lambda packages: cutouts)
    monkeypatch.setattr(sources, "_backgrounds", backgrounds)
    first = sources.unpack(tmp_path, folder)
    assert [picture.source for picture in first] == ["bird/owl", "fish/eel"]
    assert seen == ["first", first, (folder / "pictures" / "000.png").stat().st_ino]
    assert [path.name for path in tmp_path.iterdir()] == ["unpacked"]


class Squares:
    """Objects that can be told in a picture: class c is a square of one color of its own."""

    classes = ["red", "green"]  # noqa: RUF012

    def draw(self, rng: np.random.Generator) -> tuple[Image.Image, int, str]:
        label = int(rng.integers(2))
        return Image.new("RGBA", (20, 20), ((255, 0, 0, 255), (0, 255, 0, 255))[label]), label, f"square {label}"


def composer(split: str, count: int = 12, seed: int = 0) -> Composer:
    gray = [Image.new("RGB", (90, 70), (90, 90, 90))]
    return Composer(count, Squares(), gray, ComposeConfig(size=48, seed=seed), split)


def test_scenes_are_what_their_masks_say_and_the_same_again() -> None:
    for index in range(12):
        scene = composer("train").scene(index)
        assert np.array_equal(scene.image, composer("train").scene(index).image)
        for number, kind in enumerate(scene.classes):
            mask = scene.instances == number + 1
            assert (scene.semantic[mask] == kind + 1).all()
            assert scene.image[mask][:, kind].mean() > 180 > scene.image[mask][:, 1 - kind].mean()
            x, y, width, height = scene.boxes[number].astype(int)
            assert mask[y : y + height, x : x + width].sum() == mask.sum() > 0
        assert scene.label == scene.classes[0]
        first = (scene.instances == 1).sum()
        assert first == max((scene.instances == n + 1).sum() for n in range(len(scene.classes)))
    assert not np.array_equal(composer("train").scene(0).image, composer("val").scene(0).image)
    assert not np.array_equal(composer("train").scene(0).image, composer("train", seed=1).scene(0).image)


def test_an_outline_holds_the_dark_inside() -> None:
    gray = np.zeros((28, 28), np.uint8)
    gray[5:20, 6:22] = 200
    gray[9:14, 9:14] = 0
    assert np.array_equal(outline(gray) > 0, np.pad(np.ones((15, 16), bool), ((5, 8), (6, 6))))


def test_what_is_written_is_read_by_every_evaluation(tmp_path: Path) -> None:
    composers = {"train": composer("train"), "val": composer("val", 6)}
    write_sources(tmp_path / "d", composers)
    write_first(tmp_path / "d", {split: source.firsts() for split, source in composers.items()})
    labeled = open_labeled(labels_of(tmp_path / "d"))
    masks = open_masks(masks_of(tmp_path / "d"), split="val")
    boxes = open_boxes(f"coco:{tmp_path / 'd'}", split="val")
    assert masks.classes == ["background", "red", "green"]
    assert len(masks) == len(boxes) == len(labeled.test.targets) == 6
    for index, name in enumerate(objects_of(tmp_path / "d")):
        scene = composer("val", 6).scene(index)
        assert name == f"square {scene.label}"
        assert np.array_equal(masks.load(index)[1], scene.semantic)
        assert labeled.classes[labeled.test.targets[index]] == Squares.classes[scene.label]


def test_objects_are_told_from_background_alone_in_the_same_scenes(tmp_path: Path) -> None:
    data = ensure(Data(kind="scenes", size=32, train=3, val=4), folder=tmp_path, packages=tmp_path)
    masks, objects = (open_masks(masks_of(place), split="val") for place in (data, data / "foreground"))
    boxes, one_class = (open_boxes(f"coco:{place}", split="val") for place in (data, data / "foreground"))
    assert (objects.classes, one_class.classes) == (["background", "object"], ["object"])
    for index in range(4):
        assert np.array_equal(objects.load(index)[1], masks.load(index)[1] > 0)
        theirs, ours = boxes.load(index), one_class.load(index)
        assert np.array_equal(ours.image, theirs.image)
        assert np.array_equal(ours.boxes, theirs.boxes)
        assert set(ours.labels.tolist()) == {1}


def test_the_first_images_of_an_idx_file() -> None:
    whole = bytes([0, 0, 8, 3]) + struct.pack(">3I", 5, 2, 3) + bytes(range(30))
    assert first_of_idx(whole, 2) == bytes([0, 0, 8, 3]) + struct.pack(">3I", 2, 2, 3) + bytes(range(12))
    assert first_of_idx(whole, 9) == whole
    labels = bytes([0, 0, 8, 1]) + struct.pack(">I", 4) + bytes([3, 1, 2, 0])
    assert first_of_idx(labels, 3) == bytes([0, 0, 8, 1]) + struct.pack(">I", 3) + bytes([3, 1, 2])
