"""What a command says about the files that it takes and leaves."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from repre.data.io.decode import EXTENSIONS
from repre.data.io.file_choice import FileChoice
from repre.data.io.image_files import FileSource
from repre.data.io.names import Names
from repre.data.io.sources import describe_source, open_source
from repre.data.io.taken_files import count_endings
from tests.data.files import picture
from tests.data.packing import pack_tar, pack_zip


def lines(data: Path | list[str], **choice: object) -> list[str]:
    return describe_source(open_source(data if isinstance(data, list) else str(data), choice=FileChoice(**choice)))  # type: ignore[arg-type]


def write(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(EXTENSIONS):
            picture(root / name)
        else:
            (root / name).write_bytes(b"x")
    return root


def test_a_plain_folder_is_one_line(tmp_path: Path) -> None:
    assert lines(write(tmp_path, "a.png", "b.png", "c.PNG")) == ["files: 3 .png"]


def test_endings_folders_and_other_files_are_counted(tmp_path: Path) -> None:
    write(tmp_path, "cat/a.png", "cat/b.png", "dog/c.jpg", "owl/d.png", "emu/e.png", "boa/f.png", "x.xml", "cat/README")
    (line,) = lines(tmp_path)
    assert line == (
        "files: 5 .png, 1 .jpg; by folder: 2 cat, 1 boa, 1 dog, 2 in 2 others; other files: 1 .xml, 1 without an ending"
    )


@pytest.mark.parametrize("pack", [None, pack_tar, pack_zip])
def test_images_that_are_not_read_are_named(tmp_path: Path, pack: object) -> None:
    root = write(tmp_path / "d", *(f"{number}.png" for number in range(8)), *(f"{number}.heic" for number in range(8)))
    write(root, "clip.mp4", "more/more.zip", "table.parquet")
    for _ in range(2):  # the second time from the list in the cache
        found = lines(root if pack is None else pack(root, tmp_path / f"d.{'tar' if pack is pack_tar else 'zip'}"))  # type: ignore[operator]
        assert found[0] == "files: 8 .png"
        assert found[1] == "not read: 8 .heic, 1 .mp4; convert them to PNG or JPEG to use them"
        assert found[2].startswith("not read: 1 .parquet, 1 .zip") or found[2].startswith(
            "not read: 1 .zip, 1 .parquet"
        )


def test_folders_for_tests_are_named_with_what_leaves_them_out(tmp_path: Path) -> None:
    write(tmp_path, "train/a.png", "train/b.png", "test/c.png")
    found = lines(tmp_path)
    assert found[1] == "also used: 1 test; --exclude 'test/*' leaves out such test images"
    assert len(lines(tmp_path, exclude=("test/*",))) == 1


def test_several_data_are_counted_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "one/a.png", "two/b.png", "two/c.png")
    assert lines(["one", "two"]) == ["files: 3 .png; by folder: 2 two, 1 one"]


def test_masks_are_said_once(tmp_path: Path) -> None:
    for number in range(4):
        photo = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        write(tmp_path, f"images/{number}.jpg")
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(photo).save(tmp_path / f"images/{number}.jpg")
        Image.fromarray((photo[..., 0] * 0) + 3).save(tmp_path / f"masks/{number}.png")
    found = lines(tmp_path)
    assert found[0] == "files: 4 .jpg"
    assert "4 masks/*; --masks take uses them" in found[1]
    assert lines(tmp_path, masks="take") == ["files: 4 .jpg, 4 .png; by folder: 4 images, 4 masks"]


def test_names_cannot_steer_the_terminal(tmp_path: Path) -> None:
    write(tmp_path, "a\x1b[31mb/x.png", "c\nd/y.png")
    assert "\\x1b[31mb" in lines(tmp_path)[0]
    assert "c\\nd" in lines(tmp_path)[0]


def test_a_list_in_any_order_has_no_folders(tmp_path: Path) -> None:
    write(tmp_path, "b/a.png", "a/b.png")
    (tmp_path / "list.txt").write_text("b/a.png\na/b.png\n")
    assert lines(tmp_path / "list.txt") == ["files: 2 .png"]


def test_rows_and_drawn_images_say_nothing() -> None:
    assert describe_source(open_source("scenes:4:32")) == []


def test_endings_are_counted_in_blocks() -> None:
    names = Names.of([*(f"{n}.JPG" for n in range(70_000)), "a.tiff", "jpg", "x.jp2", ".png"])
    assert count_endings(names) == {".jpg": 70_000, ".tiff": 1, ".jp2": 1, ".png": 1, "other endings": 1}


def test_a_choice_keeps_the_classes_of_what_is_left(tmp_path: Path) -> None:
    write(tmp_path, "cat/a.png", "dog/b.png", "dog/c.png")
    source = open_source(str(tmp_path), choice=FileChoice(exclude=("dog/b.png",)))
    assert isinstance(source, FileSource)
    assert source.labels is not None
    assert source.labels.tolist() == [0, 1]
