"""Cut-outs with their classes and photographs as backgrounds, taken from the packages: groups of near-duplicates, folds.

The first call unpacks and shrinks them into a folder of their own; later calls read that. The three folds hold whole
groups, so training and validation images share no object, no near-duplicate and no background.
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

from experiments.debian_packages import files, find, resources
from experiments.complete_folder import whole_folder
from repre.utils.io import write_json

FOLDS = 3
CUTOUT_SIDE, BACKGROUND_SIDE = 256, 640
"""Longest side to which cut-outs, and shortest side to which backgrounds, are shrunk."""
SEE_THROUGH = 0.03
"""Share of transparent pixels that makes a picture a cut-out."""

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
"""Class: beginnings of paths below tuxpaint's stamps. The first that fits counts."""
LEFT_OUT = ("cartoon", "toys")
"""Folders of drawings."""
NO_MEMBERS = (
    "apollo_lander",
    "spacewalk",
    "voyager2",
    "0_sun",
    "7spoke256",
    "wheel_tractor",
    "traffic_cone",
    "cementmixer",
)
"""Pictures that lie in the folder of a class without belonging to it."""
NUMBERED = ("flower",)
"""Names whose numbers mean different things and not further pictures of one."""
SAME = (
    ("chicken", "hen", "rooster"), ("duck", "drake"), ("ostrich", "nandou"), ("guineafowl", "helmeted"),
    ("gull", "seagull", "silver"),
    ("donkey", "burro"), ("camel", "dromedary"), ("garlic", "garlics"), ("pepper", "yellowpepper"),
)  # fmt: skip
"""Words for one thing, partly cut out of one photograph."""

STAMPS = "usr/share/tuxpaint/stamps/"
QT_PLACES = {
    "explore_monuments.rcc": "explore_monuments/resource/",
    "categorization.rcc": "categorization/resource/images/renewable/",
    "details.rcc": "details/resource/image/",
    "clickgame.rcc": "clickgame/resource/sea",
}
"""Resource file of GCompris: what the paths of its photographs hold."""
PAINTINGS = ("Gogh", "PereTanguy", "Eglise_dAuvers")
PLACES = ("windmill", "dam", "solar", "sea", "pyramid", "taj", "eiffel", "chenonceau", "neuschwanstein")
"""Words of the file names of photographs that show one place, or one kind of it."""
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
"""Package: parts of the paths of its photographs without people, animals and plants in the foreground."""

FASHION = ("t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "trainer", "bag", "ankle boot")


@dataclass(frozen=True)
class Picture:
    """A cut-out or a background: its file below the folder, where it comes from, class ("" for backgrounds), fold."""

    file: str
    source: str
    label: str
    group: str
    fold: int


def unpack(packages: Path, folder: Path) -> list[Picture]:
    """All pictures of the packages, from `folder` where they lie already.

    Raises:
        UserError: a package is missing or is not the pinned one.
    """
    listing = folder / "catalogue.json"
    if not listing.is_file():
        with whole_folder(folder) as making:
            _unpack(packages, making)
    return [Picture(**row) for row in json.loads(listing.read_text())["pictures"]]


def _unpack(packages: Path, folder: Path) -> None:
    (folder / "pictures").mkdir()
    found = [*_cutouts(packages), *_backgrounds(packages)]
    folds = assign_folds([(label, group) for _, label, group, _ in found])
    pictures = []
    for number, (source, label, group, image) in enumerate(found):
        file = f"pictures/{number:03}.png"
        image.save(folder / file)
        pictures.append(Picture(file, source, label, group, folds[label, group]))
    write_json(folder / "catalogue.json", {"pictures": [asdict(p) for p in pictures]})


def assign_folds(members: list[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """The fold of every group (class, name): the largest groups first, each to the fold with the fewest of its class."""
    sizes: dict[tuple[str, str], int] = {}
    for key in members:
        sizes[key] = sizes.get(key, 0) + 1
    filled: dict[str, list[int]] = {}
    folds = {}
    for key in sorted(sizes, key=lambda key: (-sizes[key], hashlib.sha256("/".join(key).encode()).digest())):
        counts = filled.setdefault(key[0], [0] * FOLDS)
        folds[key] = counts.index(min(counts))
        counts[folds[key]] += sizes[key]
    return folds


def _cutouts(packages: Path) -> list[tuple[str, str, str, Image.Image]]:
    found = []
    for path, content in files(find(packages, "tuxpaint-stamps-default")):
        source = path.removeprefix(STAMPS).removesuffix(".png")
        label = class_of(source)
        if path.startswith(STAMPS) and path.endswith(".png") and label:
            image = _cutout(content)
            if image is not None:
                found.append((source, label, group_of(source), image))
    return sorted(found, key=lambda row: row[0])


def class_of(source: str) -> str:
    """The class of a stamp by its path, "" where it has none."""
    *folders, name = source.split("/")
    if any(word in folders for word in LEFT_OUT) or name in NO_MEMBERS or name.endswith("_mirror"):
        return ""
    fits = (label for label, places in CLASSES.items() if source.startswith(places))
    return next(fits, "")


def group_of(source: str) -> str:
    """The stamps that may be one object, or cut out of one photograph: by the first word of the file's name."""
    folder, _, name = source.lower().rpartition("/")
    word = re.split(r"[-_ ]", name)[0].rstrip("0123456789")
    if name[0].isdigit() or word in NUMBERED:
        word = name
    return next((words[0] for words in SAME if word in words), f"{folder}/{word}")


def _cutout(content: bytes) -> Image.Image | None:
    """The picture cut to its opaque part; None where hardly anything is transparent."""
    image = Image.open(io.BytesIO(content)).convert("RGBA")
    alpha = image.getchannel("A")
    box = alpha.point(lambda a: 255 * (a > 127)).getbbox()
    if box is None or np.mean(np.asarray(alpha) < 128) < SEE_THROUGH:
        return None
    return _shrink(image.crop(box), CUTOUT_SIDE / max(box[2] - box[0], box[3] - box[1]))


def _backgrounds(packages: Path) -> list[tuple[str, str, str, Image.Image]]:
    found = []
    for path, content in files(find(packages, "gcompris-qt-data")):
        part = QT_PLACES.get(path.rpartition("/")[2])
        for inside, picture in resources(content) if part else []:
            photograph = part in inside and not any(word in inside for word in PAINTINGS)
            if photograph and inside.endswith("_background.webp" if "details" in part else ".webp"):
                found.append((f"gcompris:{inside.partition('activities/')[2]}", picture))
    for package, names in WALLPAPERS.items():
        best: dict[str, bytes] = {}  # of several sizes the largest
        for path, content in files(find(packages, package)):
            name = next((n for n in names if f"/{n}" in path), None)
            if name and path.endswith(".jpg") and "screenshot" not in path:
                best[name] = max(best.get(name, b""), content, key=len)
        found += [(f"wallpaper:{name}", content) for name, content in best.items()]
    rows = []
    for source, content in sorted(found):
        image = Image.open(io.BytesIO(content)).convert("RGB")
        word = next((p for p in PLACES if p in source.rpartition("/")[2].lower()), source)
        if min(image.size) >= 100:
            rows.append((source, "", word, _shrink(image, BACKGROUND_SIDE / min(image.size))))
    return rows


def _shrink(image: Image.Image, factor: float) -> Image.Image:
    if factor >= 1:
        return image
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    # premultiplied, so that what lies under transparent pixels does not bleed in
    return image.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert(image.mode) if image.mode == "RGBA" else (
        image.resize(size, Image.Resampling.LANCZOS)
    )  # fmt: skip


def articles(packages: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Fashion-MNIST: uint8 [N, 28, 28] and labels int64 [N]; 60,000 to train on, 10,000 to validate."""
    part = {"train": "train", "val": "t10k"}[split]
    found = {}
    for path, content in files(find(packages, "dataset-fashion-mnist")):
        name = path.rpartition("/")[2]
        if name.startswith(part):
            found["images" if "images" in name else "labels"] = gzip.decompress(content)
    images = np.frombuffer(found["images"], np.uint8, offset=16).reshape(-1, 28, 28)
    return images, np.frombuffer(found["labels"], np.uint8, offset=8).astype(np.int64)
