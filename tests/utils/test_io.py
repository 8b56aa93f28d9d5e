"""Files and folders are whole or absent, and have the permissions that the umask allows."""

import os
import stat
from pathlib import Path

import pytest

from repre.errors import RunError
from repre.utils.io import keep_copy, new_folder, write_atomically, write_json


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_permissions_follow_the_umask(umask: int, tmp_path: Path) -> None:
    old = os.umask(umask)
    try:
        write_json(tmp_path / "file.json", {})
        keep_copy(tmp_path / "file.json", tmp_path / "copy.json")
        with new_folder(tmp_path / "folder") as folder:
            (folder / "inner").write_text("x")
    finally:
        os.umask(old)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file.json", "copy.json", "folder/inner")]
    assert modes == [0o666 & ~umask] * 3
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~umask


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_is_whole_or_as_it_was(exists: bool, error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "a" / "folder"
    if exists:
        path.mkdir(parents=True)
        (path / "old").write_text("old")

    def stopped() -> None:
        with new_folder(path) as folder:
            (folder / "new").write_text("half")
            assert not (path / "new").exists()
            raise error

    with pytest.raises(error):
        stopped()
    assert [p.name for p in path.parent.iterdir()] == (["folder"] if exists else [])
    with new_folder(path) as folder:
        (folder / "new").write_text("new")
    assert [p.name for p in path.iterdir()] == ["new"]
    assert [p.name for p in path.parent.iterdir()] == ["folder"]


def test_a_folder_left_by_a_killed_process_is_in_no_ones_way(tmp_path: Path) -> None:
    """Killed between the two renames, the old folder has another name; the next call ends with the new one."""
    for name in (".folder.partial", ".folder.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("half")
    with new_folder(tmp_path / "folder") as folder:
        (folder / "new").write_text("new")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_link_to_a_folder_stays_one(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    with new_folder(tmp_path / "link") as folder:
        (folder / "new").write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "new").read_text() == "new"


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    write_json(tmp_path / "file.json", 1)

    def fail(file: object) -> None:
        raise OSError("no space")

    with pytest.raises(RunError, match="what was saved before is intact"):
        write_atomically(tmp_path / "file.json", fail)
    assert (tmp_path / "file.json").read_text() == "1\n"
    assert len(list(tmp_path.iterdir())) == 1
