"""Finds the mask or the depth map of every image: the same name, or one suffix for all, in two folders or in one."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from repre.data.io.decode import EXTENSIONS
from repre.data.labels.splits import fixed_hold_out
from repre.data.labels.visible_files import files_below
from repre.errors import UserError, near_names

MASKS = ".png"
"""Ending of masks: PNG keeps numbers and colors exactly."""
Kind = Literal["mask", "depth map"]
"""What belongs to every image, for messages."""
SEPARATORS = "_-."
"""Characters that begin the suffix of a mask's name."""
IMAGE_SUFFIXES = ("_leftImg8bit", "_image", "_img", "_rgb", "_sat")
"""Suffixes of images that their masks do not repeat: Cityscapes, DeepGlobe and others."""


@dataclass(frozen=True)
class Pairs:
    """Images and their masks.

    Attributes:
        pairs: image and mask.
        unlabeled: images without a mask.
    """

    pairs: list[tuple[Path, Path]]
    unlabeled: list[Path]

    def notes(self, kind: Kind = "mask") -> list[str]:
        """How many images are left out, if any are."""
        count = len(self.pairs) + len(self.unlabeled)
        return [f"{len(self.unlabeled)} of {count} images have no {kind} and are left out"] if self.unlabeled else []


def image_paths(folder: Path) -> dict[str, Path]:
    """Image files below a folder by their relative path without its ending, sorted."""
    paths: dict[str, Path] = {}
    for path in _files(folder):
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in paths:
            raise UserError(f"{paths[stem]} and {path} would share one mask; rename or remove one of them")
        paths[stem] = path
    return paths


def find_pairs(
    images: dict[str, Path],
    masks: Path,
    *,
    suffix: str | None = None,
    skip_unlabeled: bool = False,
    ending: str = MASKS,
    kind: Kind = "mask",
) -> Pairs:
    """Pairs images with the masks in a folder.

    Args:
        images: image files by their path without its ending, relative to their folder.
        masks: the folder of masks.
        suffix: what follows the name of an image in that of its mask; None: the one that most masks have.
        skip_unlabeled: whether images without a mask are left out.
        ending: of the masks' files.
        kind: what they are.

    Raises:
        UserError: an image has no mask, or several suffixes fit.
    """
    if not masks.is_dir():
        raise UserError(f"--data: there is no folder of {kind}s {masks}")
    if suffix is None:
        stems = {path.relative_to(masks).with_suffix("").as_posix() for path in masks.rglob(f"*{ending}")}
        suffix = common_suffix(images, stems, str(masks), ending=ending)
    pairs, unlabeled = [], []
    for stem, path in images.items():
        mask = next(
            (file for base in _bases(stem, suffix) if (file := masks / f"{base}{suffix}{ending}").is_file()), None
        )
        if mask is None:
            unlabeled.append(path)
        else:
            pairs.append((path, mask))
    if unlabeled and (not skip_unlabeled or not pairs):
        stem = next(stem for stem, path in images.items() if path == unlabeled[0])
        raise UserError(_without_mask(unlabeled, len(images), masks / f"{stem}{suffix}{ending}", kind))
    return Pairs(pairs, unlabeled)


def find_pairs_in_one(
    folder: Path, *, suffix: str | None = None, skip_unlabeled: bool = False, ending: str = MASKS, kind: Kind = "mask"
) -> Pairs:
    """Pairs images and masks of one folder: x.jpg with x_mask.png, or x.jpg with x.png.

    Args:
        folder: the folder.
        suffix, skip_unlabeled, ending, kind: as for `find_pairs`.

    Raises:
        UserError: an image has no mask, or several suffixes fit.
    """
    files = _files(folder)
    names = {path: path.relative_to(folder).with_suffix("").as_posix() for path in files}
    masks = {name for path, name in names.items() if path.suffix.lower() == ending}
    if suffix is None:
        others = [name for path, name in names.items() if path.suffix.lower() != ending]
        suffix = common_suffix(others or list(masks), masks, str(folder), same_name=bool(others), ending=ending)
    counts = Counter(names.values())
    images: dict[str, Path] = {}
    for path, name in names.items():
        is_mask = path.suffix.lower() == ending and name.endswith(suffix)
        if is_mask and (suffix or counts[name] > 1):
            continue
        if name in images:
            raise UserError(f"{images[name]} and {path} would share one mask; rename or remove one of them")
        images[name] = path
    if not images or (not suffix and all(path.suffix.lower() == ending for path in images.values())):
        raise UserError(
            f"--data: {folder} holds no {kind}s next to its images; name them like x_{kind.split()[0]}{ending} for "
            f"x.jpg, or write pairs:IMAGES,{kind.split()[0].upper()}S"
        )
    return find_pairs(images, folder, suffix=suffix, skip_unlabeled=skip_unlabeled, ending=ending, kind=kind)


def common_suffix(
    images: Iterable[str], masks: set[str], place: str, *, same_name: bool = True, ending: str = MASKS
) -> str:
    """The suffix that most masks have after the name of an image; "" where no mask has one.

    Args:
        images, masks: names without their endings, relative to their folders.
        place: the folder of masks, for messages.
        same_name: whether a mask may have the name of its image.
        ending: of the masks' files, for messages.

    Raises:
        UserError: several suffixes fit as many images.
    """
    stems = set(images)
    bases = {base for stem in stems for base in _bases(stem, "_")}
    counts: Counter[str] = Counter()
    for mask in masks:
        if same_name and mask in stems:
            counts[""] += 1
        start = mask.rfind("/") + 1
        for position in range(start + 1, len(mask)):
            if mask[position] in SEPARATORS and mask[:position] in bases:
                counts[mask[position:]] += 1
    most = max(counts.values(), default=0)
    best = sorted(suffix for suffix, count in counts.items() if count == most)
    if not best or "" in best:
        return ""
    if len(best) > 1:
        named = ", ".join(f"*{suffix}{ending}" for suffix in best[:5])
        raise UserError(
            f"--data: images have several masks in {place}: {named}; write which: "
            f"pairs:IMAGES,{place}/*{best[0]}{ending}"
        )
    return best[0]


def _bases(stem: str, suffix: str) -> list[str]:
    """Names that the mask of an image may begin with."""
    shorter = [stem.removesuffix(ending) for ending in IMAGE_SUFFIXES if stem.endswith(ending)] if suffix else []
    return [stem, *shorter]


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        siblings = [path.name for path in folder.parent.iterdir() if path.is_dir()] if folder.parent.is_dir() else []
        raise UserError(f"--data: there is no folder {folder}{near_names(folder.name, siblings)}")
    files = files_below(folder)
    if not files:
        raise UserError(f"--data: {folder} holds no images ({', '.join(EXTENSIONS)})")
    return files


def split_places(
    spec: str, folders: str, *, ending: str = MASKS
) -> tuple[list[Path], dict[str, list[Path]], str | None]:
    """The folders of IMAGES,MASKS, or of one with both: as they are written, and by split; and the suffix of the masks if
    ``DIR/*SUFFIX`` names it.

    A folder is that of the split where `{split}` or folders train/ and val/ say so, else the same for both.

    Raises:
        UserError: there are not one or two folders, or the names of masks are not written as ``DIR/*SUFFIX.png``.
    """
    parts = [part.strip() for part in folders.split(",")]
    if len(parts) > 2 or not all(parts):
        raise UserError(
            f"--data {spec}: write pairs:IMAGES,MASKS, two folders with a comma between them, or pairs:DIR, one with both"
        )
    last, suffix = _split_pattern(spec, parts[-1], ending)
    roots = [Path(part).expanduser() for part in [*parts[:-1], last]]
    of_split = {name: [Path(str(root).replace("{split}", name)) for root in roots] for name in ("train", "val")}
    if all((roots[0] / name).is_dir() for name in of_split):
        of_split = {name: [root / name for root in roots] for name in of_split}
    return roots, of_split, suffix


def find_in(
    places: list[Path], *, suffix: str | None, skip_unlabeled: bool, ending: str = MASKS, kind: Kind = "mask"
) -> Pairs:
    """Pairs the files of two folders, or of one with both; see `find_pairs`."""
    if len(places) == 1:
        return find_pairs_in_one(places[0], suffix=suffix, skip_unlabeled=skip_unlabeled, ending=ending, kind=kind)
    images = image_paths(places[0])
    return find_pairs(images, places[1], suffix=suffix, skip_unlabeled=skip_unlabeled, ending=ending, kind=kind)


def hold_out_pairs(spec: str, found: Pairs, *, split: str) -> Pairs:
    """The part of the pairs of data without a split that belongs to `split`, train or val, by a fixed draw.

    Raises:
        UserError: there is only one pair.
    """
    if len(found.pairs) < 2:
        raise UserError(f"--data {spec}: one image cannot be split into training and validation; add more")
    chosen = fixed_hold_out(len(found.pairs))[("train", "val").index(split)]
    return Pairs([found.pairs[i] for i in chosen], found.unlabeled)


def _split_pattern(spec: str, masks: str, ending: str) -> tuple[str, str | None]:
    """The folder of masks, and the suffix of their names if it is written as DIR/*_mask.png."""
    folder, star, name = masks.partition("*")
    if not star:
        return masks, None
    if not folder.endswith("/") or not name.endswith(ending):
        raise UserError(f"--data {spec}: write the names of masks as DIR/*SUFFIX{ending}, such as masks/*_mask{ending}")
    return folder.rstrip("/") or "/", name.removesuffix(ending)


def _without_mask(unlabeled: list[Path], count: int, mask: Path, kind: Kind) -> str:
    same_stem = [path.name for path in mask.parent.glob(f"{mask.stem}.*")] if mask.parent.is_dir() else []
    exact = "masks have to be PNG, which keeps labels exact"
    reason = exact if kind == "mask" else "depth maps are 16-bit PNG or .npy, one kind for all"
    hint = f" (there is {same_stem[0]}; {reason})" if same_stem else ""
    return (
        f"{len(unlabeled)} of {count} images have no {kind}; the first is {unlabeled[0]}, whose {kind} would be {mask}"
        f"{hint}. Add the {kind}s, or leave such images out with --skip-unlabeled"
    )
