"""A folder that holds toy versions of everything that the pages name."""

import hashlib
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision.datasets
import yaml
from PIL import Image

from repre.cli.main import main
from repre.data.scenes import Scenes, ScenesConfig
from tests.data.packing import pack_tar
from tests.pages.toys import smaller

CLASSES = ("cat", "dog", "owl")
FITTED = (
    "segment --encoder runs/photos --data pairs:images/,masks/",
    "linear --encoder runs/photos --data labeled/",
    "detect --encoder runs/photos --data coco:images/,annotations.json",
)
"""Evaluations of `runs/photos` whose models the pages use."""
RUNS = ("a", "b", "a0", "a1", "a2", "camvid", "stamps", "swin")
"""Runs below `runs/` that pages use and do not make, beside `photos`."""


def run(command: str) -> None:
    """Runs a command of `repre` at toy size."""
    assert main(smaller(command.split())) == 0, command


def fill(world: Path) -> None:
    """Fills a folder, which must be the working folder."""
    _write_photos(world)
    _write_classes(world)
    _write_scenes(world)
    _write_torchvision(world)
    _write_weights(world)
    run(
        "pretrain vit-small-moco-v3 --data photos/ --out runs/photos --epochs 1000 --runtime.keep-every 10 --optim.lr 0.01"
    )
    for evaluation in FITTED:
        run(f"eval {evaluation}")
    for seed, name in enumerate(RUNS, start=1):
        recipe = "swin-tiny-moby" if name == "swin" else "vit-small-moco-v3"
        run(f"pretrain {recipe} --data photos/ --out runs/{name} --seed {seed} --runtime.no-monitors --optim.lr 0.01")


def _write_photos(world: Path) -> None:
    """Sixteen photos with those that pages name, more of them, and an archive."""
    scenes = Scenes(32, config=ScenesConfig(size=48))
    names = [f"photos/{name}.jpg" for name in ("a", "b", "one", "two", *range(12))]
    names += [f"more/{number}.jpg" for number in range(4)] + ["a.jpg", "b.jpg", "one.jpg", "two.jpg", "new.jpg"]
    for number, name in enumerate(names):
        (world / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scenes.load(number)).save(world / name)
    shutil.copytree(world / "photos", world / "sources")
    pack_tar(world / "photos", world / "shards/photos.tar")


def _write_classes(world: Path) -> None:
    """Class folders with ten images of a class, others to test on, and tables of both."""
    scenes = Scenes(48, config=ScenesConfig(size=32))
    rows: dict[str, list[str]] = {"labeled": [], "other": []}
    for number in range(48):
        folder, label = ("labeled", CLASSES[number % 3]) if number < 30 else ("other", CLASSES[number % 3])
        name = f"{folder}/{label}/{number}.png"
        (world / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scenes.load(number)).save(world / name)
        rows[folder].append(f"{name},{label}\n")
    for table, folder in (("labels", "labeled"), ("train", "labeled"), ("test", "other")):
        (world / f"{table}.csv").write_text("path,label\n" + "".join(rows[folder]))


def _write_scenes(world: Path) -> None:
    """Images with masks, depth maps and boxes, in the forms that pages name."""
    run("data scenes --out stamps --train 16 --val 8 --size 32")
    train = world / "stamps/train"
    names = [*(train / "classes.txt").read_text().split(), "void"]
    for target in (
        world,
        world / "a",
        world / "b",
        world / "nyu",
        *(world / "camvid" / part for part in ("train", "val", "test")),
    ):
        shutil.copytree(train / "images", target / "images")
        (target / "masks").mkdir()
        (target / "depth").mkdir()
        for number, path in enumerate(sorted((train / "masks").iterdir())):
            labels = np.array(Image.open(path))
            labels[0] = len(names) - 1
            Image.fromarray(labels).save(target / "masks" / path.name)
            meters = np.linspace(1 + number / 10, 5, labels.size).reshape(labels.shape)
            if target.name == "nyu":
                Image.fromarray((1000 * meters).astype(np.uint16)).save(target / "depth" / path.name)
            else:
                np.save(target / "depth" / path.with_suffix(".npy").name, meters.astype(np.float32))
        (target / "masks/classes.txt").write_text("\n".join(names))
    boxes = json.loads((train / "annotations.json").read_text())
    (world / "annotations.json").write_text(json.dumps(boxes))
    for entry in boxes["images"]:
        entry["file_name"] = "images/" + Path(entry["file_name"]).name
    for name in ("a", "b"):
        (world / f"{name}.json").write_text(json.dumps(boxes))
    _write_voc(world / "VOC2012", train)
    _write_yolo(world / "coco128", train)


def _write_voc(root: Path, scenes: Path) -> None:
    stems = [path.stem for path in sorted((scenes / "images").iterdir())]
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for stem in stems:
        Image.open(scenes / f"images/{stem}.png").save(root / f"JPEGImages/{stem}.jpg")
        mask = Image.open(scenes / f"masks/{stem}.png").convert("P")
        mask.putpalette(Image.radial_gradient("L").convert("P").getpalette() or [])
        mask.save(root / f"SegmentationClass/{stem}.png")
    for split, part in (("train", stems[:12]), ("val", stems[12:])):
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(part))


def _write_yolo(root: Path, scenes: Path) -> None:
    (root / "labels/train2017").mkdir(parents=True)
    shutil.copytree(scenes / "images", root / "images/train2017")
    for number, path in enumerate(sorted((root / "images/train2017").iterdir())):
        (root / f"labels/train2017/{path.stem}.txt").write_text(f"{number % 3} 0.5 0.5 0.4 0.3\n")
    content = {"train": "images/train2017", "val": "images/train2017", "names": dict(enumerate(CLASSES))}
    (root / "data.yaml").write_text(yaml.safe_dump(content))


def _write_torchvision(world: Path) -> None:
    """Fashion-MNIST and CIFAR-10 in their own files; the sums of the latter are in `known_sums`."""
    draw = np.random.default_rng(0)
    (world / "fashion-mnist").mkdir()
    for part in ("train", "t10k"):
        images, labels = draw.integers(0, 255, 20 * 784, dtype=np.uint8), np.arange(20, dtype=np.uint8) % 10
        (world / f"fashion-mnist/{part}-images-idx3-ubyte").write_bytes(bytes(16) + images.tobytes())
        (world / f"fashion-mnist/{part}-labels-idx1-ubyte").write_bytes(bytes(8) + labels.tobytes())
    folder = world / "data/cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        entry = {"data": draw.integers(0, 255, (20, 3072), dtype=np.uint8), "labels": [i % 10 for i in range(20)]}
        (folder / name).write_bytes(pickle.dumps(entry))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(i) for i in range(10)]}))
    shutil.copytree(world / "photos", world / "data/photos")


def know_sums(patch: pytest.MonkeyPatch, world: Path) -> None:
    """torchvision takes CIFAR-10 only with the sums that it knows."""
    folder, kind = world / "data/cifar-10-batches-py", torchvision.datasets.CIFAR10
    sums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    patch.setattr(kind, "train_list", [(name, sums[name]) for name in sorted(sums) if name.startswith("data")])
    patch.setattr(kind, "test_list", [("test_batch", sums["test_batch"])])
    patch.setattr(kind, "meta", {"filename": "batches.meta", "key": "label_names", "md5": sums["batches.meta"]})


def _write_weights(world: Path) -> None:
    """Weights with timm's and DINO's names, of the encoder that a command of a page gets here."""
    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch16_224", num_classes=0, embed_dim=48, depth=4)
    torch.save(model.state_dict(), world / "dino_vits16.pth")
    torch.save(published("vit_small_patch14_dinov2.lvd142m", toy=True), world / "dinov2_vits14_pretrain.pth")


def published(name: str, *, toy: bool) -> dict[str, torch.Tensor]:
    """In place of timm's weights on the hub: random ones, for the toy encoder of a run or for the whole model."""
    sizes = {"embed_dim": 48, "depth": 4} if toy else {}
    return dict(timm.create_model(name, num_classes=0, **sizes).state_dict())
