"""Small copies of CamVid and CIFAR-10 in the layout of real_images.py."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("sky", "road")


def write_camvid(folder: Path, counts: dict[str, int]) -> None:
    """Writes frames of 40 x 32 pixels: bright sky above a dark road."""
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        for kind in ("images", "masks"):
            (folder / "camvid" / split / kind).mkdir(parents=True)
        for index in range(count):
            mask = np.zeros((32, 40), np.uint8)
            mask[int(rng.integers(8, 24)) :] = 1
            image = np.where(mask == 0, 200, 60)[..., None] + rng.integers(-40, 40, (32, 40, 3))
            Image.fromarray(image.astype(np.uint8)).save(
                folder / "camvid" / split / "images" / f"{split}{index:03}.png"
            )
            Image.fromarray(mask).save(folder / "camvid" / split / "masks" / f"{split}{index:03}.png")
    (folder / "camvid" / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))


def write_cifar10(folder: Path, counts: dict[str, int]) -> None:
    """Writes images of one color for every class, `counts` of each class by part."""
    for part, count in counts.items():
        for label, name in enumerate(("cat", "dog")):
            (folder / "cifar10" / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = np.full((32, 32, 3), 80 * label + index, np.uint8)
                Image.fromarray(pixels).save(folder / "cifar10" / part / name / f"{index}.png")
