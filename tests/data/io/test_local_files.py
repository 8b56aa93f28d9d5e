"""Folders and lists of files as sources: labels from class folders, splits, lists."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from repre.data.io import local_files
from repre.data.io.sources import open_source
from repre.data.labels.classes import open_labeled
from repre.errors import UserError
from tests.data.files import picture


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


def test_a_list_of_files(tmp_path: Path) -> None:
    picture(tmp_path / "x/1.png", 10)
    picture(tmp_path / "2.png", 20)
    (tmp_path / "files.txt").write_text(f"# mine\n\nx/1.png\n{tmp_path / '2.png'}\n")
    source = open_source(str(tmp_path / "files.txt"))
    assert [int(source.load(i)[0, 0, 0]) for i in range(2)] == [10, 20]
    (tmp_path / "files.txt").write_text("x/1.png\ngone.png\n")
    with pytest.raises(UserError, match=r"1 of 2 files .* gone.png"):
        open_source(str(tmp_path / "files.txt"))


def test_a_folder_whose_list_is_kept_is_not_listed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may hold ten million files."""
    for number in range(20):
        picture(tmp_path / "photos" / f"{number}.png")
    names = open_source(str(tmp_path / "photos"), cache_dir=tmp_path / "cache").files.names  # type: ignore[attr-defined]
    seen = []

    class Counted:
        def __init__(self, folder: Path) -> None:
            self.entries = scandir(folder)

        def __enter__(self) -> "Counted":
            return self

        def __exit__(self, *_: object) -> None:
            self.entries.close()

        def __iter__(self) -> Iterator[os.DirEntry[str]]:
            for entry in self.entries:
                seen.append(entry.name)
                yield entry

    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", Counted)
    monkeypatch.setattr(os, "listdir", lambda _: pytest.fail("listed"))
    again = open_source(str(tmp_path / "photos"), cache_dir=tmp_path / "cache")
    assert again.files.names == names  # type: ignore[attr-defined]
    assert len(seen) == 1


def test_what_is_no_list_has_a_message_of_its_own(tmp_path: Path) -> None:
    picture(tmp_path / "x/1.png")
    long = "n" * 5000
    for content, message in {
        b"x\n": r"1 of 1 lines .* name folders, not files: x; .* give the folders themselves to --data",
        long.encode(): r"do not exist: n{120}\.\.\.$",
        bytes(range(1, 256)): "neither a text list nor a supported archive",
    }.items():
        (tmp_path / "files.txt").write_bytes(content)
        with pytest.raises(UserError, match=message):
            open_source(str(tmp_path / "files.txt"))


def test_pipes_dangling_links_and_closed_folders_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "link.txt").symlink_to(tmp_path / "gone.txt")
    with pytest.raises(UserError, match=r"pipe.txt is a pipe or a device; save its content as a file"):
        open_source(str(tmp_path / "pipe.txt"))
    with pytest.raises(UserError, match=r"link.txt is a link to a file that does not exist"):
        open_source(str(tmp_path / "link.txt"))

    def closed(path: object, **_: object) -> object:
        raise PermissionError(13, "no")

    monkeypatch.setattr(local_files.os, "stat", closed)  # the tests may run as root, who may read anything
    with pytest.raises(UserError, match=r"no permission to read .*files.txt"):
        open_source(str(tmp_path / "files.txt"))


def test_a_closed_folder_and_a_missing_split_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split in ("train", "val"):
        picture(tmp_path / f"photos/{split}/cat/1.png")
    with pytest.raises(UserError, match=r"there is no folder .*photos/test"):
        open_source(str(tmp_path / "photos"), split="test")
    monkeypatch.setattr(local_files.os, "access", lambda *_: False)  # the tests may run as root, who may read anything
    for opened in (open_source, open_labeled):
        with pytest.raises(UserError, match=r"no permission to read the folder .*photos"):
            opened(str(tmp_path / "photos"))
