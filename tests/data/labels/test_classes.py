"""Labeled data: folders, tables, data sets; and every mistake in them by file and line."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets

from repre.data.labels.classes import open_labeled
from repre.errors import UserError
from tests.data.files import picture
from tests.data.packing import pack_zip


def folders(root: Path, counts: dict[str, int]) -> Path:
    for name, count in counts.items():
        for number in range(count):
            picture(root / name / f"{number}.png", number)
    return root


def opened(spec: object, **options: object):  # type: ignore[no-untyped-def]
    return open_labeled(str(spec), **options)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------ class folders


def test_split_folders(tmp_path: Path) -> None:
    folders(tmp_path, {"train/cat": 3, "train/dog": 2, "val/cat": 1, "val/dog": 2})
    for spec in (tmp_path, f"imagenet:{tmp_path}"):
        found = opened(spec)
        assert found.classes == ["cat", "dog"]
        assert found.train.targets.tolist() == [0, 0, 0, 1, 1]
        assert found.test.targets.tolist() == [0, 1, 1]
        assert (found.val, found.test_set) == (None, "val")
    folders(tmp_path, {"test/cat": 1, "test/dog": 1})
    found = opened(tmp_path)
    assert found.test_set == "test"
    assert len(found.test) == 2
    assert found.val is not None
    assert len(found.val) == 3


def test_one_folder_of_classes_holds_a_share_out(tmp_path: Path) -> None:
    folders(tmp_path, {"cat": 10, "dog": 5})
    found = opened(tmp_path)
    assert np.bincount(found.test.targets).tolist() == [2, 1]
    assert np.bincount(found.train.targets).tolist() == [8, 4]
    assert "20%" in found.details()["test_set"]
    shown = {found.test.describe(i) for i in range(3)} | {found.train.describe(i) for i in range(12)}
    assert len(shown) == 15
    assert [opened(tmp_path).test.describe(i) for i in range(3)] == [found.test.describe(i) for i in range(3)]
    folders(tmp_path, {"owl": 1})
    with pytest.raises(UserError, match="held out of owl"):
        opened(tmp_path)


def test_other_data_to_test_on(tmp_path: Path) -> None:
    own = folders(tmp_path / "own", {"cat": 3, "dog": 3})
    other = folders(tmp_path / "other", {"cat": 1, "dog": 1})
    found = opened(own, test=str(other))
    assert (len(found.train), len(found.test)) == (6, 2)
    assert found.test_set == str(other)
    folders(other, {"owl": 1})
    with pytest.raises(UserError, match=r"only in .*other: owl"):
        opened(own, test=str(other))
    split = folders(tmp_path / "split", {"train/cat": 2, "train/dog": 2, "val/cat": 1, "val/dog": 1})
    found = opened(own, test=str(split))
    assert (len(found.test), found.test_set) == (2, f"val of {split}")


def test_mistakes_in_folders(tmp_path: Path) -> None:
    folders(tmp_path, {"train/cat": 2, "train/dog": 2, "val/cat": 1, "val/dgo": 1})
    with pytest.raises(UserError, match=r"only in .*train: dog; only in .*val: dgo"):
        opened(tmp_path)
    (tmp_path / "train" / "owl").mkdir()
    with pytest.raises(UserError, match=r"no images in the class folder .*train/owl"):
        opened(tmp_path)
    picture(tmp_path / "train" / "loose.png")
    with pytest.raises(UserError, match=r"train/loose.png is next to the class folders"):
        opened(tmp_path)
    with pytest.raises(UserError, match=r"holds only cat/"):
        opened(folders(tmp_path / "single", {"cat": 2}))
    with pytest.raises(UserError, match=r"holds none"):
        opened(tmp_path / "single" / "cat")
    with pytest.raises(UserError, match="did you mean 'single'"):
        opened(tmp_path / "singel")
    (tmp_path / "two" / "cat").mkdir(parents=True)
    folders(tmp_path / "two", {"dog": 2})
    with pytest.raises(UserError, match=r"no images in the class folder .*two/cat"):
        opened(tmp_path / "two")


# ------------------------------------------------------------------------------------------------------------- tables


def table(root: Path, text: str) -> str:
    for number in range(8):
        picture(root / f"{number}.png", number)
    (root / "labels.csv").write_text(text)
    return f"csv:{root / 'labels.csv'}"


def test_a_table_with_splits(tmp_path: Path) -> None:
    spec = table(
        tmp_path,
        "label, path, split\ncat,0.png,train\ndog,1.png,train\ndog,2.png,val\ncat,3.png,test\n\ndog,4.png,test\n",
    )
    found = opened(spec)
    assert found.classes == ["cat", "dog"]
    assert found.train.targets.tolist() == [0, 1]
    assert found.test.targets.tolist() == [0, 1]
    assert [int(found.test.load(i)[0, 0, 0]) for i in range(2)] == [3, 4]
    assert found.val is not None
    assert found.val.describe(0) == str(tmp_path / "2.png")
    assert not found.multilabel


def test_a_table_without_test_rows_holds_a_share_out(tmp_path: Path) -> None:
    found = opened(table(tmp_path, "path,label\n" + "".join(f"{i}.png,{'ab'[i % 2]}\n" for i in range(8))))
    assert (len(found.train), len(found.test)) == (6, 2)
    assert sorted(found.test.targets.tolist()) == [0, 1]
    found = opened(table(tmp_path, "path,label,split\n" + "".join(f"{i}.png,{'ab'[i % 2]},train\n" for i in range(8))))
    assert (len(found.train), len(found.test)) == (6, 2)


def test_several_labels_in_a_cell_make_a_matrix(tmp_path: Path) -> None:
    rows = "path,label,split\n0.png,cat; dog,train\n1.png,owl|cat,train\n2.png,dog,test\n"
    found = opened(table(tmp_path, rows))
    assert found.multilabel
    assert found.classes == ["cat", "dog", "owl"]
    assert found.train.targets.tolist() == [[1, 1, 0], [1, 0, 1]]
    assert found.test.targets.tolist() == [[0, 1, 0]]
    held = opened(table(tmp_path, "path,label\n" + "".join(f"{i}.png,{'cat;dog' if i else 'cat'}\n" for i in range(8))))
    assert len(held.test) == 2


def test_a_table_tests_on_a_table_with_fewer_classes(tmp_path: Path) -> None:
    spec = table(tmp_path, "path,label\n0.png,a\n1.png,b\n2.png,c\n")
    (tmp_path / "test.csv").write_text("path,label\n3.png,c\n4.png,a\n")
    assert opened(spec, test=f"csv:{tmp_path / 'test.csv'}").test.targets.tolist() == [2, 0]
    (tmp_path / "test.csv").write_text("path,label\n3.png,c\n4.png,cc\n")
    with pytest.raises(UserError, match=r"test.csv line 3: no training image has the label 'cc'"):
        opened(spec, test=f"csv:{tmp_path / 'test.csv'}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column 'path'.*it is empty"),
        ("path,label\n", "no rows"),
        ("path,lable\n0.png,a\n", "no column 'label'.*did you mean 'lable'"),
        ("path;label\n0.png;a\n", "no column 'path'"),
        ("path,label,label\n0.png,a,b\n", "line 1: two columns"),
        ("path,label\n0.png,a\ngone.png,b\n", "line 3: there is no image .*gone.png"),
        ("path,label\n0.png,a\n,b\n", "line 3: the path is empty"),
        ("path,label\n0.png,a\n1.png,\n", "line 3: a label of 1.png is empty"),
        ("path,label\n0.png,a\n1.png\n", "line 3: a label of 1.png is empty"),
        ("path,label\n0.png,a;;b\n", "line 2: a label of 0.png is empty"),
        ("path,label\n0.png,a,b\n", "line 2: more cells"),
        ("path,label,split\n0.png,a,train\n1.png,b,tset\n", "line 3: no split 'tset'.*did you mean 'test'"),
        ("path,label,split\n0.png,a,train\n1.png,b,\n", "line 3: no split ''"),
        ("path,label,split\n0.png,a,val\n1.png,b,test\n", "no row has the split train"),
        (
            "path,label,split\n0.png,a,train\n1.png,b,train\n2.png,c,test\n",
            "line 4: no training image has the label 'c'",
        ),
        ("path,label\n0.png,a\n1.png,b\n0.png,b\n", "line 4: 0.png is already in line 2"),
        ("path,label\n0.png,a\n1.png,a\n", "one class only, a"),
        ("path,label\n0.png,a\n1.png,a\n2.png,b\n", "held out of b"),
    ],
)
def test_mistakes_in_tables(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=f"(?s){message}") as raised:
        opened(table(tmp_path, text))
    assert "labels.csv" in str(raised.value)


def test_a_table_that_is_not_there_or_no_table(tmp_path: Path) -> None:
    table(tmp_path, "path,label\n0.png,a\n")
    with pytest.raises(UserError, match=r"did you mean .labels\.csv."):
        opened(f"csv:{tmp_path / 'label.csv'}")
    with pytest.raises(UserError, match="write csv:"):
        opened(tmp_path / "labels.csv")
    (tmp_path / "labels.csv").write_bytes(b"path,label\n\xff\xfe,a\n")
    with pytest.raises(UserError, match="UTF-8"):
        opened(f"csv:{tmp_path / 'labels.csv'}")


# ----------------------------------------------------------------------------------------------------------- data sets


def test_scenes_test_on_others(monkeypatch: pytest.MonkeyPatch) -> None:
    found = opened("scenes:9:16")
    assert (len(found.train), len(found.test)) == (9, 4)
    assert found.test.load(0).shape == (16, 16, 3)
    assert not np.array_equal(found.train.load(0), found.test.load(0))
    assert found.train.targets.tolist() == [found.train.source.scene(i).label for i in range(9)]  # type: ignore[attr-defined]


def test_fashion_mnist_and_its_wrong_labels(tmp_path: Path) -> None:
    def write(part: str, labels: list[int], images: int = 3) -> None:
        pixels = np.arange(images * 784).astype(np.uint8)
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(16) + pixels.tobytes()))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bytes(8) + bytes(labels)))

    write("train", [9, 0, 4])
    write("t10k", [1, 2, 3])
    found = opened(f"fashion-mnist:{tmp_path}")
    assert found.train.targets.tolist() == [9, 0, 4]
    assert found.test.targets.tolist() == [1, 2, 3]
    write("t10k", [1, 10, 3])
    with pytest.raises(UserError, match=r"test label 10 .* not one of the 10 classes"):
        opened(f"fashion-mnist:{tmp_path}")
    write("t10k", [1, 2])
    with pytest.raises(UserError, match="3 test images, but 2 labels"):
        opened(f"fashion-mnist:{tmp_path}")


def test_stl10_leaves_its_unlabeled_images_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fake:
        classes = ["a", "b"]  # noqa: RUF012

        def __init__(self, root: str, *, download: bool, split: str) -> None:
            self.labels = {"train": [0, 1], "train+unlabeled": [0, 1, -1], "test": [1]}[split]
            self.data = np.zeros((len(self.labels), 3, 4, 4), np.uint8)

    monkeypatch.setattr(torchvision.datasets, "STL10", Fake)
    found = opened(f"stl10:{tmp_path}")
    assert found.train.targets.tolist() == [0, 1]
    assert found.test.targets.tolist() == [1]


def test_what_has_no_labels(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no data set 'cifra10'.*cifar10"):
        opened(f"cifra10:{tmp_path}")
    picture(tmp_path / "x.png")
    (tmp_path / "list.txt").write_text("x.png\n")
    with pytest.raises(UserError, match="write csv:"):
        opened(tmp_path / "list.txt")


@pytest.mark.parametrize("test", [False, True])
@pytest.mark.parametrize("ending", ["/photos.txt", "/photos.csv", "/photos/"])
def test_no_message_repeats_a_password(ending: str, test: bool) -> None:
    address = f"https://user:hunter2@host{ending}"
    with pytest.raises(UserError, match="password") as raised:
        opened("scenes:8:16" if test else address, test=address if test else None)
    assert "hunter2" not in str(raised.value)


def test_an_archive_of_one_folder_with_splits(tmp_path: Path) -> None:
    """As `zip -r data.zip data/` packs it."""
    folders(tmp_path / "x/data", {"train/cat": 2, "train/dog": 3, "val/cat": 1, "val/dog": 1})
    splits = opened(pack_zip(tmp_path / "x", tmp_path / "data.zip"))
    assert (len(splits.train), len(splits.test)) == (5, 2)
    assert splits.classes == ["cat", "dog"]
    assert splits.train.targets.tolist() == [0, 0, 1, 1, 1]
