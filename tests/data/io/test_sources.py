"""What --data may be, and every mistake with its fix."""

from pathlib import Path

import pytest

from repre.data.io.sources import open_source
from repre.errors import UserError
from tests.data.files import picture

MISTAKES = {
    "": "empty",
    "{tmp}/photoss": "photos",
    "{tmp}/bare": "empty folder",
    "{tmp}/texts": r"1 of \.txt",
    "{tmp}/photos/1.png": "one image",
    "{tmp}/texts/none.txt": "names no files",
    "cifra10:{tmp}": "cifar10",
    "cifar10:{tmp}/nowhere": "no folder",
    "cifar10:{tmp}": "is incomplete in",
    "fashion-mnist:{tmp}": "train-images-idx3-ubyte",
    "{tmp}/nested": r"1 of \.tar.*pattern: '.*nested/\*\*/\*\.tar'",
    "s3://": "names no bucket or host",
    "scenes:many": "scenes:COUNT",
    "scenes:0": "at least one",
}


@pytest.mark.parametrize("spec", MISTAKES)
def test_mistakes_name_the_fix(spec: str, tmp_path: Path) -> None:
    picture(tmp_path / "photos/1.png")
    (tmp_path / "bare").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/none.txt").write_text("# nothing\n")
    (tmp_path / "nested/a").mkdir(parents=True)
    (tmp_path / "nested/a/0.tar").touch()
    with pytest.raises(UserError, match=MISTAKES[spec]):
        open_source(spec.format(tmp=tmp_path))


def test_scenes_by_name() -> None:
    source = open_source("scenes:5:32", split="val")
    assert len(source) == 5
    assert source.load(0).shape == (32, 32, 3)
    assert len(open_source("scenes")) == 4096
