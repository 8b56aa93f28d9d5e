"""Several sources in one, and patterns that choose files."""

import pickle
from pathlib import Path

import pytest

from repre.data.io.file_choice import FileChoice
from repre.data.io.image_files import FileSource
from repre.data.io.image_limits import UnreadableImage
from repre.data.io.sources import open_source
from repre.errors import UserError
from tests.data.files import picture
from tests.data.packing import pack_tar, pack_zip


def value(source: FileSource, index: int) -> int:
    return int(source.load(index)[0, 0, 0])


@pytest.fixture
def mixed(tmp_path: Path) -> list[str]:
    """Six images of the values 1 to 6: a folder, a list, an archive and a pattern."""
    for number, name in enumerate(("a/2.png", "a/1.png", "b/3.png", "t/4.png", "z/5.png", "g/x/6.png"), start=1):
        picture(tmp_path / name, 10 * int(name[-5]) + number)
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfb/3.png\r\n")
    tar, zipped = pack_tar(tmp_path / "t", tmp_path / "t.tar"), pack_zip(tmp_path / "z", tmp_path / "z.zip")
    return [str(tmp_path / "a"), str(tmp_path / "list.txt"), str(tar), str(zipped), f"{tmp_path}/g/*/*.png"]


def test_several_specs_come_one_after_another(mixed: list[str]) -> None:
    source = pickle.loads(pickle.dumps(open_source(mixed)))
    assert [value(source, index) for index in range(6)] == [12, 21, 33, 44, 55, 66]
    assert source.files.counts == [2, 1, 1, 1, 1]
    assert source.labels is None
    assert source.describe(3).endswith("t.tar: 4.png")
    assert source.files.stamp(2) == open_source(mixed[1]).files.stamp(0)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="in memory and cannot be joined"):
        open_source([mixed[0], "scenes:8:32"])
    with pytest.raises(UserError, match="is empty"):
        open_source([mixed[0], ""])


def test_images_that_a_shell_lists_are_one_part(tmp_path: Path) -> None:
    """As `--data photos/*.png` without quotes arrives."""
    paths = [str(picture(tmp_path / f"{number}.png", number)) for number in (3, 1, 2)]
    source = open_source(paths)
    assert isinstance(source, FileSource)
    assert [value(source, index) for index in range(3)] == [3, 1, 2]
    assert source.files.counts == [3]


@pytest.mark.parametrize("packed", [False, True])
def test_patterns_choose_files_by_their_whole_names(tmp_path: Path, packed: bool) -> None:
    folder = tmp_path / "photos"
    for name in ("cat/1.png", "cat/1_mask.png", "dog/day/2.png", "dog/3.png", "owl/4.jpg"):
        picture(folder / name)
    spec = str(pack_tar(folder, tmp_path / "x.tar") if packed else folder)

    def chosen(include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> tuple[list[str], list[str]]:
        source = open_source(spec, choice=FileChoice(include, exclude))
        assert isinstance(source, FileSource)
        assert source.load(len(source) - 1).shape == (10, 12, 3)
        assert sum(source.files.counts) == len(source)
        labels = [] if source.labels is None else [source.classes[label] for label in source.labels]
        return list(source.files.names), labels

    assert chosen(exclude=("*_mask.png",))[0] == ["cat/1.png", "dog/3.png", "dog/day/2.png", "owl/4.jpg"]
    assert chosen(exclude=("*_mask.png",))[1] == ["cat", "dog", "dog", "owl"]
    assert chosen(include=("dog/*", "*.jpg"))[0] == ["dog/3.png", "dog/day/2.png", "owl/4.jpg"]
    assert chosen(include=("*.png",), exclude=("cat/*", "dog/3*"))[0] == ["dog/day/2.png"]
    with pytest.raises(UserError, match=r"--include '\*.gif' leaves none of the 5 images .* such as cat/1.png"):
        chosen(include=("*.gif",))


def test_files_of_any_ending_are_told_by_their_content(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "tmp.png").rename(tmp_path / "0f3c")
    (tmp_path / "notes").write_text("no image")
    assert len(open_source(str(tmp_path))) == 1
    source = open_source(str(tmp_path), choice=FileChoice(any_ending=True))
    assert isinstance(source, FileSource)
    assert list(source.files.names) == ["0f3c", "a.png"]
    assert source.load(0).shape == (10, 12, 3)


def test_a_file_of_a_list_that_is_gone(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    source = open_source(str(tmp_path))
    path.unlink()
    with pytest.raises(UnreadableImage, match="vanished"):
        source.load(0)
