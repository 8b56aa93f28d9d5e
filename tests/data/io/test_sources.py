"""What --data may be: folders, lists, data sets from small fake roots; and every mistake with its fix."""

import gzip
import hashlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets
from PIL import Image

from repre.data.io.sources import UnreadableImage, open_source
from repre.errors import UserError


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return cache


def picture(path: Path, value: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 10), (value, 0, 0)).save(path)
    return path


def names(root: Path) -> list[str]:
    source = open_source(str(root))
    return [os.path.relpath(source.describe(i), root.resolve()) for i in range(len(source))]


def test_a_folder_is_searched_recursively_in_a_fixed_order(tmp_path: Path) -> None:
    for name in ("b.PNG", "a/x.jpg", "a/b/y.webp", ".hidden/z.png", "c/.z.png"):
        picture(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    assert names(tmp_path) == ["a/b/y.webp", "a/x.jpg", "b.PNG"]
    source = pickle.loads(pickle.dumps(open_source(str(tmp_path))))
    assert source.load(2).shape == (10, 12, 3)
    assert source.labels is None


def test_class_folders_give_labels(tmp_path: Path) -> None:
    for name in ("dog/1.png", "cat/2.png", "cat/deep/3.png"):
        picture(tmp_path / name)
    source = open_source(str(tmp_path))
    assert source.classes == ["cat", "dog"]
    assert source.labels is not None
    assert source.labels.tolist() == [0, 0, 1]
    picture(tmp_path / "loose.png")
    assert open_source(str(tmp_path)).labels is None


def test_imagenet_layout(tmp_path: Path) -> None:
    for name in ("train/n1/a.png", "train/n2/b.png", "val/n1/c.png", "val/n2/d.png", "val/n2/e.png"):
        picture(tmp_path / name)
    for spec in (str(tmp_path), f"imagenet:{tmp_path}"):
        train, val = (open_source(spec, split=split) for split in ("train", "val"))
        assert (len(train), len(val)) == (2, 3)
        assert train.classes == val.classes == ["n1", "n2"]


def test_the_index_is_cached_and_renewed(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = tmp_path / "photos"
    picture(photos / "a/1.png")
    assert names(photos) == ["a/1.png"]
    assert len(list(own_cache.rglob("*.json"))) == 1
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", lambda *_: pytest.fail("the cache was not used"))
        assert names(photos) == ["a/1.png"]
    picture(photos / "a/2.png")
    assert names(photos) == ["a/1.png", "a/2.png"]
    (photos / "a/1.png").unlink()
    assert names(photos) == ["a/2.png"]
    for cache in own_cache.rglob("*.json"):
        cache.write_text("{torn")
    assert names(photos) == ["a/2.png"]


def test_links_loops_and_strange_names(tmp_path: Path) -> None:
    picture(tmp_path / "a/1.png")
    (tmp_path / "a/loop").symlink_to(tmp_path, target_is_directory=True)
    strange = os.fsencode(tmp_path) + b"/\xff\xfe.png"
    os.rename(picture(tmp_path / "tmp.png"), strange)
    source = open_source(str(tmp_path))
    assert len(source) == 2
    assert all(source.load(i).shape == (10, 12, 3) for i in range(2))


def test_a_list_of_files(tmp_path: Path) -> None:
    picture(tmp_path / "x/1.png", 10)
    picture(tmp_path / "2.png", 20)
    (tmp_path / "files.txt").write_text(f"# mine\n\nx/1.png\n{tmp_path / '2.png'}\n")
    source = open_source(str(tmp_path / "files.txt"))
    assert [int(source.load(i)[0, 0, 0]) for i in range(2)] == [10, 20]
    (tmp_path / "files.txt").write_text("x/1.png\ngone.png\n")
    with pytest.raises(UserError, match=r"1 of 2 files .* gone.png"):
        open_source(str(tmp_path / "files.txt"))


def test_fashion_mnist_from_its_four_files(tmp_path: Path) -> None:
    images, labels = np.arange(3 * 784).astype(np.uint8), np.array([9, 0, 4], np.uint8)
    for part in ("train", "t10k"):
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(16) + images.tobytes()))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(bytes(8) + labels.tobytes())
    source = open_source(f"fashion-mnist:{tmp_path}")
    assert source.labels is not None
    assert source.labels.tolist() == [9, 0, 4]
    assert source.load(1).shape == (28, 28, 3)
    assert (source.load(1)[..., 0].ravel() == images[784:1568]).all()
    assert open_source(f"fashion-mnist:{tmp_path}", channels=1, split="val").load(0).shape == (28, 28, 1)


def test_cifar10_and_stl10_from_small_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    entry = {"data": np.full((2, 3072), 7, np.uint8), "labels": [3, 8]}
    files = {f"data_batch_{i}": entry for i in range(1, 6)} | {"test_batch": entry}
    files["batches.meta"] = {"label_names": [str(i) for i in range(10)]}
    sums = {}
    for name, content in files.items():
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    kind = torchvision.datasets.CIFAR10
    monkeypatch.setattr(kind, "train_list", [(f"data_batch_{i}", sums[f"data_batch_{i}"]) for i in range(1, 6)])
    monkeypatch.setattr(kind, "test_list", [("test_batch", sums["test_batch"])])
    monkeypatch.setattr(kind, "meta", {"filename": "batches.meta", "key": "label_names", "md5": sums["batches.meta"]})
    train, val = (open_source(f"cifar10:{tmp_path}", split=split) for split in ("train", "val"))
    assert (len(train), len(val)) == (10, 2)
    assert train.load(0).shape == (32, 32, 3)
    assert val.labels is not None
    assert val.labels.tolist() == [3, 8]


MISTAKES = {
    "": "empty",
    "{tmp}/photoss": "photos",
    "{tmp}/bare": "empty folder",
    "{tmp}/texts": r"1 of \.txt",
    "{tmp}/photos/1.png": "one image",
    "{tmp}/texts/none.txt": "names no files",
    "cifra10:{tmp}": "cifar10",
    "cifar10:{tmp}/nowhere": "no folder",
    "cifar10:{tmp}": "not .whole. in",
    "fashion-mnist:{tmp}": "train-images-idx3-ubyte",
    "scenes:many": "scenes:COUNT",
    "scenes:0": "at least one",
}


@pytest.mark.parametrize("spec", MISTAKES)
def test_mistakes_name_the_fix(spec: str, tmp_path: Path) -> None:
    picture(tmp_path / "photos/1.png")
    (tmp_path / "bare").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/none.txt").write_text("# nothing\n")
    with pytest.raises(UserError, match=MISTAKES[spec]):
        open_source(spec.format(tmp=tmp_path))


def test_scenes_by_name() -> None:
    source = open_source("scenes:5:32", split="val")
    assert len(source) == 5
    assert source.load(0).shape == (32, 32, 3)
    assert len(open_source("scenes")) == 4096


def test_links_to_nowhere_and_to_themselves_are_listed_and_reported_when_read(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "absent.png")
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    source = open_source(str(tmp_path))
    assert len(source) == 3
    for index, word in ((1, "vanished"), (2, "damaged")):
        with pytest.raises(UnreadableImage, match=word):
            source.load(index)


def test_an_unreadable_folder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Injected, since the tests may run as root, who may read anything."""
    picture(tmp_path / "a/1.png")
    picture(tmp_path / "b/2.png")
    real, failures = os.scandir, [PermissionError(13, "no"), OSError(5, "bad disk")]

    def closed(folder: Path) -> object:
        if Path(folder).name == "b":
            raise failures.pop(0)
        return real(folder)

    monkeypatch.setattr(os, "scandir", closed)
    for words in ("no permission .*b", "b: bad disk"):
        with pytest.raises(UserError, match=words):
            open_source(str(tmp_path))
