"""Data sets of the plan as folders: built on demand, complete or not there at all."""

import gzip
import json
import math
import os
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.build_scenes import DATA, build, write_first
from experiments.compose_scenes import ComposeConfig
from experiments.debian_packages import files, find
from experiments.presets import Data
from experiments.complete_folder import whole_folder
from repre.data.scenes import ScenesConfig
from repre.data.tools.write import write_scenes

__all__ = ["DATA", "ensure", "labels_of", "masks_of", "objects_of"]


def ensure(data: Data, *, folder: Path, packages: Path) -> Path:
    """The folder of a data set, built where it is missing."""
    out = folder / data.name
    if out.is_dir():
        return out
    counts = {"train": data.train, "val": data.val}
    with whole_folder(out) as making:
        if data.kind == "fashion-mnist":
            _plain_articles(making, packages, counts)
        elif data.kind == "scenes":
            write_scenes(making, counts, config=ScenesConfig(size=data.size, max_objects=data.objects, seed=data.seed))
            write_first(making, {split: [f"{split}/{i}" for i in range(count)] for split, count in counts.items()})
        else:
            config = ComposeConfig(size=data.size, max_objects=data.objects, fold=data.fold, seed=data.seed)
            build(data.kind, making, counts, packages=packages, config=config)
        if data.kind != "fashion-mnist":
            _foreground(making)
    return out


def _plain_articles(out: Path, packages: Path, counts: dict[str, int]) -> None:
    """The first images of Fashion-MNIST's four files, unpacked as repre reads them."""
    raw = out / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for path, content in files(find(packages, "dataset-fashion-mnist")):
        name = path.rpartition("/")[2]
        if name.endswith("-ubyte.gz"):
            count = counts["train" if name.startswith("train") else "val"]
            (raw / name.removesuffix(".gz")).write_bytes(first_of_idx(gzip.decompress(content), count))


def first_of_idx(content: bytes, count: int) -> bytes:
    """An IDX file of bytes (four bytes of kind, then the length of every dimension) cut to its first items."""
    dimensions = content[3]
    header = 4 + 4 * dimensions
    held, *shape = struct.unpack(f">{dimensions}I", content[4:header])
    count = min(count, held)
    kept = header + count * math.prod(shape)
    return content[:4] + struct.pack(">I", count) + content[8:kept]


def _foreground(out: Path) -> None:
    """foreground/: the same images with masks of two classes, background and object, and with boxes of one."""
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
        content["annotations"] = [each | {"category_id": 1} for each in content["annotations"]]
        (out / "foreground" / split / "annotations.json").write_text(json.dumps(content), encoding="utf-8")
    (out / "foreground" / "classes.txt").write_text("background\nobject\n", encoding="utf-8")


def labels_of(folder: Path) -> str:
    """What `--data` says for whole-image labels."""
    return f"csv:{folder}/labels.csv" if (folder / "labels.csv").is_file() else f"fashion-mnist:{folder}"


def masks_of(folder: Path) -> str:
    """What `--data` says for masks."""
    return f"pairs:{folder}/{{split}}/images,{folder}/{{split}}/masks"


def objects_of(folder: Path) -> list[str]:
    """The first object of every test image, in the order of the table of labels."""
    lines = (folder / "objects.csv").read_text(encoding="utf-8").splitlines()[1:]
    return [line.split(",", 1)[1] for line in lines if line.startswith("val/")]
