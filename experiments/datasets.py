"""The data sets of the plan as folders. They are built on demand and are either complete or absent."""

import csv
import gzip
import json
import math
import os
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.build_scenes import build, write_main_objects
from experiments.complete_folder import complete_folder
from experiments.compose_scenes import ComposeConfig
from experiments.debian_packages import package_files, package_path
from experiments.presets import Data
from experiments.real_images import write_real
from repre.data.scenes import ScenesConfig
from repre.data.tools.write import write_scenes


def ensure_dataset(data: Data, *, folder: Path, packages: Path, real: Path | None = None) -> Path:
    """Returns the folder of a data set below `folder`; builds it if it is missing.

    Args:
        real: folder with camvid and cifar10, as folders or archives (real_images.py).
    """
    out = folder / data.name
    if out.is_dir():
        return out
    counts = {"train": data.train, "val": data.val}
    with complete_folder(out) as temporary:
        if data.kind == "fashion-mnist":
            _write_fashion_mnist(temporary, packages, counts)
        elif data.kind in ("camvid", "cifar10"):
            write_real(data.kind, temporary, counts, real=real, size=data.size)
        elif data.kind == "scenes":
            config = ScenesConfig(size=data.size, max_objects=data.objects, seed=data.seed)
            write_scenes(temporary, counts, config=config)
            names = {split: [f"{split}/{index}" for index in range(count)] for split, count in counts.items()}
            write_main_objects(temporary, names)
        else:
            compose = ComposeConfig(size=data.size, max_objects=data.objects, fold=data.fold, seed=data.seed)
            build(data.kind, temporary, counts, packages=packages, config=compose)
        if data.kind not in ("fashion-mnist", "camvid", "cifar10"):
            _write_foreground(temporary)
    return out


def _write_fashion_mnist(out: Path, packages: Path, counts: dict[str, int]) -> None:
    """Writes the first images of Fashion-MNIST's four files, unpacked as repre reads them."""
    raw = out / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for path, content in package_files(package_path(packages, "dataset-fashion-mnist")):
        name = path.rpartition("/")[2]
        if name.endswith("-ubyte.gz"):
            count = counts["train" if name.startswith("train") else "val"]
            (raw / name.removesuffix(".gz")).write_bytes(truncate_idx(gzip.decompress(content), count))


def truncate_idx(content: bytes, count: int) -> bytes:
    """Cuts an IDX file of bytes to its first `count` items.

    The format: four bytes for the type (the last is the number of dimensions), the length of every dimension, the items.
    """
    dimensions = content[3]
    header = 4 + 4 * dimensions
    total, *shape = struct.unpack(f">{dimensions}I", content[4:header])
    count = min(count, total)
    end = header + count * math.prod(shape)
    return content[:4] + struct.pack(">I", count) + content[8:end]


def _write_foreground(out: Path) -> None:
    """Writes foreground/: the same images with masks of background and object, and with boxes of a single class."""
    for split in ("train", "val"):
        images, masks = (out / "foreground" / split / kind for kind in ("images", "masks"))
        images.mkdir(parents=True)
        masks.mkdir()
        for path in sorted((out / split / "images").iterdir()):
            os.link(path, images / path.name)
            mask = np.asarray(Image.open(out / split / "masks" / path.name))
            Image.fromarray((mask > 0).astype(np.uint8)).save(masks / path.name)
        content = json.loads((out / split / "annotations.json").read_text(encoding="utf-8"))
        content["categories"] = [{"id": 1, "name": "object"}]
        content["annotations"] = [annotation | {"category_id": 1} for annotation in content["annotations"]]
        (out / "foreground" / split / "annotations.json").write_text(json.dumps(content), encoding="utf-8")
    (out / "foreground" / "classes.txt").write_text("background\nobject\n", encoding="utf-8")


def images_spec(folder: Path) -> str:
    """Returns the value of `--data` for the training images of a data set, without labels."""
    if (folder / "FashionMNIST").is_dir():
        return f"fashion-mnist:{folder}"
    images = folder / "train" / "images"
    return str(images if images.is_dir() else folder / "train")


def labels_spec(folder: Path) -> str:
    """Returns the value of `--data` for the image labels of a data set: a table, or class folders."""
    if (folder / "FashionMNIST").is_dir():
        return f"fashion-mnist:{folder}"
    return f"csv:{folder}/labels.csv" if (folder / "labels.csv").is_file() else str(folder)


def masks_spec(folder: Path) -> str:
    """Returns the value of `--data` for the masks of a data set."""
    return f"pairs:{folder}/{{split}}/images,{folder}/{{split}}/masks"


def main_objects(folder: Path) -> list[str]:
    """Returns the main object of every test image, in the order of labels.csv."""
    with open(folder / "objects.csv", newline="", encoding="utf-8") as file:
        return [row["object"] for row in csv.DictReader(file) if row["path"].startswith("val/")]
