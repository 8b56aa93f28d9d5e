"""Finds the images, labels and class names of YOLO data.

yolo:DIR                        a data.yaml with train, val and names; or images/{train,val} and labels/{train,val};
                                or {train,val}/images and {train,val}/labels; names like train2017 count, too
yolo:FILE.yaml                  the same, by its YAML file
yolo:IMAGES,LABELS[,NAMES]      two folders, and a YAML file with names or a text file with a name on every line
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from repre.data.io.decode import EXTENSIONS
from repre.data.labels.text_lines import read_lines
from repre.data.labels.visible_files import files_below
from repre.data.labels.yolo_labels import YoloFiles
from repre.errors import UserError, near_names
from repre.utils.os_errors import reason_of

SPLIT_FOLDERS = {"train": ("train", "train2017"), "val": ("val", "valid", "val2017", "test")}
"""Names of folders of the splits."""


@dataclass(frozen=True)
class _Names:
    file: Path | None = None
    names: list[str] | None = None
    keypoints: int = 0


def find_yolo(spec: str, rest: str, split: str) -> tuple[YoloFiles, bool]:
    """Finds the files of a split.

    Args:
        spec: the ``--data`` string, for messages.
        rest: what follows ``yolo:``.
        split: train or val.

    Returns:
        The files, and whether they are those of the other split, too, so that a share has to be held out.

    Raises:
        UserError: folders or files are missing, or the YAML file is wrong.
    """
    parts = [Path(part).expanduser() for part in rest.split(",")]
    if rest.strip() and len(parts) == 1:
        return _of_folder(spec, parts[0], split)
    if len(parts) not in (2, 3) or not all(part.strip() for part in rest.split(",")):
        raise UserError(f"--data {spec}: write yolo:DIR, yolo:IMAGES,LABELS or yolo:IMAGES,LABELS,NAMES")
    images, labels = parts[:2]
    for folder in (images, labels):
        _check_folder(spec, folder)
    names = _read_names(parts[2]) if len(parts) == 3 else _names_near([labels, labels.parent, images.parent])
    paths = _image_files([images])
    label_files = [labels / path.relative_to(images).with_suffix(".txt") for path in paths]
    return _checked(spec, labels, paths, label_files, names), True


def _of_folder(spec: str, place: Path, split: str) -> tuple[YoloFiles, bool]:
    """Finds a split below a folder, or by a YAML file."""
    if place.suffix.lower() in (".yaml", ".yml"):
        root: Path = place.parent
        yaml_file: Path | None = place
    else:
        _check_folder(spec, place)
        root, found = place, sorted(place.glob("*.y*ml"))
        named = [file for file in found if file.stem in ("data", "dataset")]
        if len(named or found) > 1:
            several = ", ".join(file.name for file in found)
            raise UserError(f"--data {spec}: several YAML files ({several}); name one: yolo:{found[0]}")
        yaml_file = next(iter(named or found), None)
    content = _read_yaml(yaml_file) if yaml_file is not None else {}
    if content.get("train") or content.get("val"):
        assert yaml_file is not None
        of_split = {name: _listed(yaml_file, content, name) for name in SPLIT_FOLDERS}
    else:
        of_split = {name: _image_files(_usual_folders(root, name)) for name in SPLIT_FOLDERS}
        if not of_split["train"]:
            of_split["train"] = _image_files([root / "images"] if (root / "images").is_dir() else [])
    if not of_split["train"]:
        raise UserError(
            f"--data {spec}: {root} has no data.yaml with train and val, no images/train and no train/images; "
            "write yolo:IMAGES,LABELS"
        )
    hold_out = not of_split["val"] or of_split["val"] == of_split["train"]
    paths = of_split["train"] if hold_out else of_split[split]
    names = _names_of(content, yaml_file) or _names_near([root, root / "labels"])
    return _checked(spec, yaml_file or root, paths, [_label_file(path) for path in paths], names), hold_out


def _check_folder(spec: str, folder: Path) -> None:
    if not folder.is_dir():
        siblings = [path.name for path in folder.parent.iterdir()] if folder.parent.is_dir() else []
        raise UserError(f"--data {spec}: there is no folder {folder}{near_names(folder.name, siblings)}")


def _checked(spec: str, place: Path, paths: list[Path], labels: list[Path], names: _Names) -> YoloFiles:
    if not paths:
        raise UserError(f"--data {spec}: no images ({', '.join(EXTENSIONS)})")
    if not any(label.is_file() for label in labels):
        raise UserError(
            f"--data {spec}: none of {len(paths)} images has a label file; that of {paths[0]} would be {labels[0]}"
        )
    seen: dict[Path, Path] = {}
    for path, label in zip(paths, labels):
        if seen.setdefault(label, path) != path:
            raise UserError(f"{seen[label]} and {path} would share the labels {label}; rename or remove one of them")
    return YoloFiles(place, paths, labels, names.names, names.file, names.keypoints)


def _image_files(folders: list[Path]) -> list[Path]:
    return [path for folder in folders for path in files_below(folder)]


def _usual_folders(root: Path, split: str) -> list[Path]:
    """The folder of a split's images, if there is one."""
    candidates = [
        folder for name in SPLIT_FOLDERS[split] for folder in (root / "images" / name, root / name / "images")
    ]
    return [folder for folder in candidates if folder.is_dir()][:1]


def _label_file(image: Path) -> Path:
    """The label file of an image: the last folder `images` of its path becomes `labels`; else it lies beside the image."""
    parts = list(image.parts)
    for number in range(len(parts) - 2, -1, -1):
        if parts[number] == "images":
            parts[number] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


# ---------------------------------------------------------------------------------------------------- the YAML file


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--data: cannot read {file}: {reason_of(error)}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--data: {file} is not YAML: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(content, dict):
        raise UserError(f"--data: {file} has no keys; YOLO's has train, val and names")
    return content


def _listed(file: Path, content: dict[str, Any], split: str) -> list[Path]:
    """The images of a split that a YAML file names: folders, or lists of images in text files."""
    entries = content.get(split) or []
    images: list[Path] = []
    for entry in [entries] if isinstance(entries, str) else entries:
        place = _existing(file, content, str(entry))
        if place is None:
            raise UserError(
                f"--data: {file} names {entry!r} as {split}, which is neither in its folder nor in its path"
            )
        if place.is_dir():
            images += _image_files([place])
            continue
        listed = [place.parent / line for line in read_lines(place)]  # absolute paths stay as they are
        if missing := [path for path in listed if not path.is_file()]:
            raise UserError(f"--data: {place} lists {len(missing)} images that do not exist, the first is {missing[0]}")
        images += listed
    return images


def _existing(file: Path, content: dict[str, Any], entry: str) -> Path | None:
    """Resolves an entry: relative to `path`, or, where the data were moved, to the folder of the YAML file."""
    bases = [file.parent / str(content["path"])] if content.get("path") else []
    within = entry
    while within.startswith("../"):  # some exporters write ../train/images for train/images
        within = within[3:]
    candidates = [base / name for name in dict.fromkeys((entry, within)) for base in (*bases, file.parent)]
    return next((place for place in candidates if place.exists()), None)


# -------------------------------------------------------------------------------------------------- names of classes


def _names_of(content: dict[str, Any], file: Path | None) -> _Names | None:
    names = content.get("names")
    if names is None:
        return None
    if isinstance(names, list):
        names = dict(enumerate(names))
    whole = isinstance(names, dict) and all(isinstance(key, int) and 0 <= key < 100_000 for key in names)
    if not names or not whole:
        raise UserError(f"--data: names in {file} must be a list, or numbers with a name each")
    shape = content.get("kpt_shape")
    if shape is not None and not (
        isinstance(shape, list) and len(shape) == 2 and all(isinstance(side, int) and side > 0 for side in shape)
    ):
        raise UserError(f"--data: kpt_shape in {file} must be two whole numbers, not {shape!r}")
    return _Names(
        file, [str(names.get(number, number)) for number in range(max(names) + 1)], shape[0] * shape[1] if shape else 0
    )


def _read_names(file: Path) -> _Names:
    if file.suffix.lower() in (".yaml", ".yml"):
        found = _names_of(_read_yaml(file), file)
        if found is None:
            raise UserError(f"--data: {file} has no names")
        return found
    names = read_lines(file)
    if not names:
        raise UserError(f"--data: {file} names no classes; write one per line")
    return _Names(file, names)


def _names_near(folders: list[Path]) -> _Names:
    """The names in a classes.txt or a data.yaml of one of the folders."""
    for folder in folders:
        if (folder / "classes.txt").is_file():
            return _read_names(folder / "classes.txt")
        if (folder / "data.yaml").is_file() and (
            names := _names_of(_read_yaml(folder / "data.yaml"), folder / "data.yaml")
        ):
            return names
    return _Names()
