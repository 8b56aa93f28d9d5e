"""The search for images in a folder, its cache, and links that lead anywhere."""

import os
import pickle
from pathlib import Path

import pytest

from repre.data.io.decode import UnreadableImage
from repre.data.io.sources import open_source
from repre.errors import UserError
from tests.data.files import picture


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


def test_the_index_is_cached_and_renewed(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = tmp_path / "photos"
    picture(photos / "a/1.png")
    assert names(photos) == ["a/1.png"]
    assert len(list(own_cache.rglob("*.index"))) == 1
    with monkeypatch.context() as patch:
        patch.setattr("repre.data.io.folder_index._scan", lambda *_, **__: pytest.fail("the cache was not used"))
        assert names(photos) == ["a/1.png"]
    picture(photos / "a/2.png")
    assert names(photos) == ["a/1.png", "a/2.png"]
    (photos / "a/1.png").unlink()
    assert names(photos) == ["a/2.png"]
    for cache in own_cache.rglob("*.index"):
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


def test_links_to_nowhere_and_to_themselves_are_listed_and_reported_when_read(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "absent.png")
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    source = open_source(str(tmp_path))
    assert len(source) == 3
    for index, word in ((1, "vanished"), (2, "cannot be read: Too many levels")):
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
