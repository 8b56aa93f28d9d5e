"""Classes that are probably a mistake are refused with what was read and what to do; legitimate ones are not."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from repre.data.labels.classes import LabeledSplits, open_labeled
from repre.data.labels.problems import ACCEPT, Problems
from repre.data.tools.check_labels import check_labels
from repre.errors import UserError
from tests.data.labels.label_files import save_image

HEADER = "path,label\n"


def folders(root: Path, names: Sequence[str]) -> str:
    """Class folders; a name that ends with / is an empty folder."""
    for name in names:
        if name.endswith("/"):
            (root / name).mkdir(parents=True, exist_ok=True)
        else:
            save_image(root / name)
    return str(root)


def table(root: Path, text: str | bytes, images: int = 30) -> str:
    root.mkdir(parents=True, exist_ok=True)
    for number in range(images):
        (root / f"{number}.png").touch()  # labels are opened, images are not
    (root / "t.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return f"csv:{root / 't.csv'}"


def rows(labels: Sequence[object]) -> str:
    return HEADER + "".join(f"{number}.png,{label}\n" for number, label in enumerate(labels))


def each(classes: Sequence[str], count: int = 3) -> list[str]:
    return [f"{name}/{name.strip().replace('/', '-')}{number}.png" for name in classes for number in range(count)]


def accepted(spec: str, test: str | None = None) -> LabeledSplits:
    return open_labeled(spec, test=test, problems=Problems(accept=True))


DOUBTS = {
    "splits": (each(["training", "validation"]), "training, validation, which are usual names of splits"),
    "splits in capitals": (each(["TRAIN", "Test"]), "which are usual names of splits"),
    "parts": (each(["images", "masks"]), "images, masks, which are usual names of parts of a data set"),
    "case": (each(["cat", "dog", "Cat"]), "'Cat', 'cat' differ only in case or blanks"),
    "blank": (each(["cat", "cat ", "dog"]), "'cat', 'cat ' differ only in case or blanks"),
    "inner blank": (each(["hot dog", "hot_dog", "cat"]), "'hot dog', 'hot_dog' differ only"),
    "composed": (each(["caf\u00e9", "cafe\u0301", "tea"]), "differ only in case or blanks"),
    "own": ([*(f"{n}x/{n}.png" for n in range(8)), "0x/8.png"], "9 training images have 8 classes"),
    "own in train": ([f"{s}/{n}x/{s}{n}.png" for n in range(8) for s in ("train", "val")], "names of images"),
    "single": (["a/1.png", "b/2.png", "b/3.png"], "no test image can be held out of a, which has only one"),
    "absent": (["train/a/1.png", "train/b/1.png", "train/c/1.png", "val/a/2.png", "val/b/2.png"], "train: c"),
}


@pytest.mark.parametrize("name", DOUBTS)
def test_folders_are_asked_about_and_can_be_confirmed(name: str, tmp_path: Path) -> None:
    names, message = DOUBTS[name]
    spec = folders(tmp_path, names)
    with pytest.raises(UserError, match=r"confirm them with --accept-labels$") as error:
        open_labeled(spec)
    assert message in str(error.value)
    splits = accepted(spec)
    assert len(splits.test) >= 1
    assert len(splits.classes) == len({part.split("/")[-2] for part in names})
    messages = [problem for report in check_labels(spec) for problem in report.problems]
    if name not in ("single", "absent"):
        assert any(message in problem for problem in messages), "the report says the same"


TABLES = {
    "halves": (rows([n / 2 for n in range(8)] * 3), "8 different numbers from 0 to 3.5", "no regression"),
    "exponents": (rows(["1e-3", "2e-3"] * 6), "2 different numbers from 0.001 to 0.002", "not all of them whole"),
    "no label": (rows([-1, 0, 1] * 4), "from -1 to 1", "A number below 0 usually means that an image has no label"),
    "ids": (rows(range(1000, 1130)), "130 different numbers from 1000 to 1129", "look like ids or quantities"),
    "few ids": (rows(range(8)), "8 training images have 8 classes", "names of images"),
    "file names": (rows([f"img{n}" for n in range(9)]), "9 training images have 9 classes", "names of images"),
    "missing": (rows(["a", "b", "nan"] * 3), "the class 'nan'", "where a value is missing"),
    "null": (rows(["a", "b", "NULL"] * 3), "the class 'NULL'", "write their labels"),
    "case": (rows(["a1", "b", "A1"] * 3), "'A1', 'a1' differ only in case", "in one way"),
    "one cell": (
        rows(["a", "b"] * 10 + ["a;b"]),
        "1 of 21 rows have several labels, the first in line 22",
        "one label",
    ),
    "one bar": (rows(["a", "b"] * 10 + ["a|b"]), "line 22: a;b", "mean average precision"),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_asked_about_and_can_be_confirmed(name: str, tmp_path: Path) -> None:
    text, found, remedy = TABLES[name]
    spec = table(tmp_path, text, 130)
    with pytest.raises(UserError, match=ACCEPT) as error:
        open_labeled(spec, test=spec)
    assert found in str(error.value)
    assert remedy in str(error.value)
    assert accepted(spec, spec).multilabel == (name in ("one cell", "one bar"))
    (report,) = check_labels(spec)
    assert any(found in problem for problem in report.problems)
    assert f"{len(accepted(spec, spec).classes)} classes" in report.title


def test_a_single_image_of_every_class_leaves_none_to_test(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="which has only one") as error:
        accepted(folders(tmp_path, ["a/1.png", "b/2.png"]))
    assert ACCEPT not in str(error.value)


LEGITIMATE = {
    "digits": each([str(digit) for digit in range(10)]),
    "letters in two cases": each(["a", "A", "b", "B"]),
    "ids of ImageNet": each([f"n0144{n}" for n in range(5)], 2),
    "negative words": each(["-1 degree", "cat"]),
    "some named like splits": each(["train", "car", "mask"]),
    "few-shot": [f"{s}/{c}/{s}{c}.png" for c in "abcd" for s in ("train", "val")],
    "system folders": each(["a", "b", ".ipynb_checkpoints", "__MACOSX", "@eaDir"]),
    "one name in two classes": ["a/0.png", "a/1.png", "b/0.png", "b/1.png"],
}


@pytest.mark.parametrize("name", LEGITIMATE)
def test_legitimate_folders_pass(name: str, tmp_path: Path) -> None:
    splits = open_labeled(folders(tmp_path, LEGITIMATE[name]))
    assert not splits.notes
    assert not any(folder in splits.classes for folder in (".ipynb_checkpoints", "__MACOSX", "@eaDir"))


@pytest.mark.parametrize(
    "labels",
    [
        [n % 120 for n in range(1200)],
        [n % 2 for n in range(10)],
        ["0.0", "1.0"] * 5,
        ["none", "crack"] * 5,
        ["a;b", "a", "b"] * 4,
        [1000, 2000, 3000] * 4,
    ],
    ids=["120 ids", "two numbers", "whole floats", "none", "several labels", "numbers with gaps"],
)
def test_legitimate_tables_pass(labels: list[object], tmp_path: Path) -> None:
    assert open_labeled(table(tmp_path, rows(labels), len(labels))).notes == ()


def photo(path: Path, seed: int) -> None:
    save_image(path, np.random.default_rng(seed).integers(0, 255, (20, 40, 3), np.uint8))


def test_one_image_in_two_classes_is_asked_about(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.png"):
        photo(tmp_path / name, 0)
    for number, name in enumerate(("a/2.png", "b/2.png", "a/3.png", "b/3.png"), start=1):
        photo(tmp_path / name, number)
    with pytest.raises(UserError, match=r"1 images are in two classes; .*a/1.png and .*b/1.png have the same content"):
        open_labeled(str(tmp_path))
    assert len(accepted(str(tmp_path)).test) == 2


def test_one_image_in_two_splits_is_noted(tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        for split in ("train", "val"):
            photo(tmp_path / split / name / "1.png", number)
    (note,) = open_labeled(str(tmp_path)).notes
    assert note.startswith("2 images are in two splits, so the metric is too high: ")


def test_classes_without_test_images_are_noted(tmp_path: Path) -> None:
    train = "".join(f"{n}.png,{'abc'[n % 3]},train\n" for n in range(6))
    spec = table(tmp_path, f"path,label,split\n{train}6.png,a,val\n7.png,b,val\n")
    assert open_labeled(spec).notes == ("1 of 3 classes have no test image, and no metric of their own: c",)


HOSTILE = {
    "index": (",path,label\n0,0.png,a\n1,1.png,b\n2,2.png,a\n3,3.png,b\n", None),
    "bom": ("\ufeff" + rows("abab"), None),
    "windows": (rows("abab").replace("\n", "\r\n"), None),
    "quoted": ('path,label\n"0.png","a, b"\n1.png,c\n2.png,"a, b"\n3.png,c\n', None),
    "other header": (
        "filename,class\n0.png,a\n1.png,b\n",
        "'filename' names the images: call that column path, and that",
    ),
    "no header": ("0.png,a\n1.png,b\n", "that is the first image, not a header: write a line path,label above it"),
    "semicolons": (rows("abab").replace(",", ";"), "its columns are separated by ';': save the table with commas"),
    "tabs": (rows("abab").replace(",", "\t"), "its columns are separated by '\\t'"),
    "one class": (rows("aaa"), "one class only, a"),
    "twice": (rows("abab") + "./1.png,a\n", "line 6: ./1.png is already in line 3"),
    "utf-16": (rows("abab").encode("utf-16"), "t.csv line 1 is not UTF-8"),
    "latin": (rows("aéaé").encode("latin-1"), "t.csv line 3 is not UTF-8"),
    "nul": (rows(["a", "\0b", "a"]), "line 3: control characters in '1.png' or its label"),
    "nul in a path": (HEADER + "0\0.png,a\n1.png,b\n", "line 2: control characters"),
    "long line": (HEADER + "x" * 10_000_000 + "\n", "field larger than field limit"),
    "long name": (HEADER + "x" * 5000 + ",a\n1.png,b\n", "line 2: there is no image"),
    "missing": (rows("abab") + "no.png,a\nnone.png,b\n", "2 of 6 images do not exist, the first is in line 6"),
    "empty label": (rows(["a", "", "b"]), "line 3: a label of 1.png is empty"),
    "empty": ("", "it is empty"),
    "binary": (bytes(range(256)) * 50, "is not UTF-8"),
    "a cell too many": (rows(["a", "b,c"]), "line 3: more cells than the header has columns"),
    "two columns": ("path,label,label\n0.png,a,b\n", "two columns are called 'label'"),
    "split of another name": ("path,label,split\n0.png,a,Train\n", "no split 'Train'; did you mean 'train'"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_tables_as_programs_write_them(name: str, tmp_path: Path) -> None:
    text, message = HOSTILE[name]
    spec = table(tmp_path, text)
    if message is None:
        assert len(open_labeled(spec).classes) == 2
        return
    with pytest.raises(UserError) as error:
        open_labeled(spec)
    assert message in str(error.value)
    assert len(str(error.value)) < 600


def test_a_folder_is_no_table_and_files_anywhere_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(UserError, match="is a folder, not a table"):
        open_labeled(f"csv:{tmp_path / 'd.csv'}")
    for number in range(4):
        save_image(tmp_path / "elsewhere" / f"{number}.png")
    names = ["../elsewhere/0.png", str(tmp_path / "elsewhere/1.png"), "../elsewhere/2.png", "../elsewhere/3.png"]
    spec = table(tmp_path / "t", HEADER + "".join(f"{name},{'ab'[n % 2]}\n" for n, name in enumerate(names)), 0)
    assert open_labeled(spec).train.load(0).shape == (20, 40, 3)


def test_an_empty_class_folder_says_what_it_holds(tmp_path: Path) -> None:
    spec = folders(tmp_path, [*each(["a", "b"]), "c/"])
    with pytest.raises(UserError, match=r"no images in the class folder .*c; fill it or remove it"):
        open_labeled(spec)
    (tmp_path / "c/1.heic").touch()
    with pytest.raises(UserError, match=r"no images in the class folder .*c \(1 of .heic\); fill it"):
        open_labeled(spec)
