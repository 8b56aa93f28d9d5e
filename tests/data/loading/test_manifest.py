"""A run keeps its list of files: what comes, goes or changes is named and never reorders what it shows."""

import gzip
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from repre.data.io.decode import UnreadableImage
from repre.data.io.file_choice import FileChoice
from repre.data.io.image_files import FileSource
from repre.data.io.local_files import LocalFiles
from repre.data.io.names import Names
from repre.data.io.sources import open_source
from repre.data.loading.loader import Loader
from repre.data.loading.manifest import apply_manifest, changed_during_run, write_manifest
from repre.errors import UserError


def photos(folder: Path, count: int = 8) -> Path:
    folder.mkdir(parents=True)
    for i in range(count):
        np.save(folder / f"{i}.npy", np.full((6, 6, 3), i, np.uint8))
    return folder


def opened(folder: Path) -> FileSource:
    source = open_source(str(folder))
    assert isinstance(source, FileSource)
    return source


def test_the_list_survives_names_that_are_no_utf8(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", 3)
    os.rename(folder / "1.npy", os.fsencode(folder) + b"/\xff.npy")
    source = opened(folder)
    write_manifest(source, tmp_path / "files.gz")
    kept, note = apply_manifest(opened(folder), tmp_path / "files.gz")
    assert note is None
    assert isinstance(kept, FileSource)
    assert kept.files.names == source.files.names


def test_files_that_come_or_go_do_not_reorder_the_run(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    write_manifest(opened(folder), tmp_path / "files.gz")
    settings = {"batch_size": 4, "epochs": 1, "seed": 0, "canvas": 8, "workers": 0}
    before = [b.indices.tolist() for b in Loader(opened(folder), **settings)]  # type: ignore[arg-type]
    np.save(folder / "0000.npy", np.full((6, 6, 3), 99, np.uint8))
    (folder / "7.npy").unlink()
    source, note = apply_manifest(opened(folder), tmp_path / "files.gz")
    assert note is not None
    assert "1 of its 8 files are gone, 1 are new" in note
    batches = list(Loader(source, **settings))  # type: ignore[arg-type]
    reasons = [failure for b in batches for failure in b.failures]
    assert reasons == [(7, "the file has vanished")]
    for was, batch in zip(before, batches):
        for index, now, pixels in zip(was, batch.indices.tolist(), batch.pixels):
            assert pixels[0, 0, 0] == now
            assert now == index or index == 7


def test_a_file_written_to_after_the_beginning_is_named(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    write_manifest(opened(folder), tmp_path / "files.gz")
    source, _ = apply_manifest(opened(folder), tmp_path / "files.gz")
    assert isinstance(source, FileSource)
    time.sleep(0.05)  # file systems keep coarse times
    source.run_started = time.time_ns()
    time.sleep(0.05)
    assert not any(changed_during_run(source, i) for i in range(8))
    np.save(folder / "3.npy", np.full((6, 6, 3), 33, np.uint8))
    older = tmp_path / "older.npy"
    np.save(older, np.full((6, 6, 3), 66, np.uint8))
    os.utime(older, (time.time() - 10**6,) * 2)
    shutil.copy2(older, folder / "6.npy")
    os.utime(folder / "5.npy", (time.time() + 10**6,) * 2)  # a clock that was wrong is no change
    assert [i for i in range(8) if changed_during_run(source, i)] == [3, 6]
    loader = Loader(source, batch_size=8, epochs=1, seed=0, canvas=8, workers=0)
    assert [sorted(b.changed) for b in loader] == [[3, 6]]


def test_files_that_were_copied_again_did_not_change(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    write_manifest(opened(folder), tmp_path / "files.gz")
    time.sleep(0.05)
    for path in [*folder.iterdir()]:
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    source, note = apply_manifest(opened(folder), tmp_path / "files.gz")
    assert note is None
    assert not any(changed_during_run(source, i) for i in range(8))
    np.save(folder / "2.npy", np.full((6, 6, 3), 22, np.uint8))
    source, _ = apply_manifest(opened(folder), tmp_path / "files.gz")
    assert changed_during_run(source, 2)


def test_a_run_that_began_with_its_masks_keeps_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / "d" / name).mkdir(parents=True)
    for i in range(4):
        np.save(tmp_path / "d" / "images" / f"{i}.npy", rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        np.save(tmp_path / "d" / "masks" / f"{i}.npy", np.full((6, 6), i, np.uint8))
    data, begun, left = str(tmp_path / "d"), tmp_path / "begun.gz", tmp_path / "left.gz"
    write_manifest(open_source(data), begun)
    write_manifest(open_source(data, choice=FileChoice()), left)
    assert [len(apply_manifest(open_source(data, choice=FileChoice()), path)[0]) for path in (begun, left)] == [8, 4]
    np.save(tmp_path / "d" / "images" / "9.npy", rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    for path, count in ((begun, 8), (left, 4)):
        source, note = apply_manifest(open_source(data, choice=FileChoice()), path)
        assert len(source) == count
        assert note is not None
        assert f"0 of its {count} files are gone, 1 are new" in note


@pytest.mark.parametrize("damage", ["torn", "text", "header", "checksum"])
def test_a_damaged_list_is_refused(tmp_path: Path, damage: str) -> None:
    folder, path = photos(tmp_path / "photos"), tmp_path / "files.gz"
    write_manifest(opened(folder), path)
    (folder / "7.npy").unlink()  # else the digest in the header would do
    whole = gzip.decompress(path.read_bytes())
    _, rest = whole.split(b"\n", 1)
    path.write_bytes(
        {
            "torn": path.read_bytes()[:-20],
            "text": b"hello",
            "header": gzip.compress(b"[1]\n" + rest),
            "checksum": gzip.compress(whole.replace(b"3.npy", b"9.npy")),
        }[damage]
    )
    with pytest.raises(UserError, match="list of the run's files, is damaged"):
        apply_manifest(opened(folder), path)


@pytest.mark.parametrize("memory", [100, 10**7])
def test_a_list_may_take_a_share_of_the_memory(tmp_path: Path, memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few files are left; a packed list that claims more is refused before it is unpacked."""
    folder, path = photos(tmp_path / "photos"), tmp_path / "files.gz"
    write_manifest(opened(folder), path)
    for number in range(1, 8):
        (folder / f"{number}.npy").unlink()
    monkeypatch.setattr("repre.data.loading.manifest.MAX_BYTES", 10)
    monkeypatch.setattr("repre.data.loading.manifest.machine_bytes", lambda: memory)
    if memory == 10**7:
        source, note = apply_manifest(opened(folder), path)
        assert (len(source), note is not None) == (8, True)
        header, _ = gzip.decompress(path.read_bytes()).split(b"\n", 1)
        path.write_bytes(gzip.compress(header.replace(b'"size": 40', b'"size": 3000000') + b"\n" + bytes(10**7)))
    with pytest.raises(
        UserError, match=r"holds 8 names of 0.0 GiB, and --data only 1 files: too many for this machine"
    ):
        apply_manifest(opened(folder), path)


@pytest.mark.parametrize("name", ["../secret.npy", "/etc/passwd"])
def test_a_list_that_climbs_out_of_the_data_opens_nothing(tmp_path: Path, name: str) -> None:
    """Names of the list are looked up among the files of --data; they are never opened by themselves."""
    folder, path = photos(tmp_path / "photos", 1), tmp_path / "files.gz"
    np.save(tmp_path / "secret.npy", np.zeros((6, 6, 3), np.uint8))
    listed = FileSource(str(folder), LocalFiles(folder, Names.of([name])), channels=3, canvas=None)
    write_manifest(listed, path)
    source, note = apply_manifest(opened(folder), path)
    assert note is not None
    assert "1 of its 1 files are gone" in note
    with pytest.raises(UnreadableImage, match="vanished"):
        source.load(0)


def test_data_that_moved_are_told_by_names_and_content(tmp_path: Path) -> None:
    path = tmp_path / "files.gz"
    source = opened(photos(tmp_path / "old"))
    write_manifest(source, path)
    (tmp_path / "old").rename(tmp_path / "new")
    moved, note = apply_manifest(opened(tmp_path / "new"), path)
    assert note is None
    assert moved.load(5)[0, 0, 0] == 5
    np.save(tmp_path / "new/0.npy", np.full((6, 6, 3), 77, np.uint8))
    with pytest.raises(UserError, match=r"does not hold the images that the run began with at .*old .*0.npy differs"):
        apply_manifest(opened(tmp_path / "new"), path)
    (tmp_path / "new/0.npy").unlink()
    with pytest.raises(UserError, match="7 images, then 8"):
        apply_manifest(opened(tmp_path / "new"), path)


def test_parts_of_several_folders_keep_their_places(tmp_path: Path) -> None:
    path = tmp_path / "files.gz"
    folders = [str(photos(tmp_path / name, 3)) for name in ("a", "b")]
    source = open_source(folders)
    write_manifest(source, path)
    (tmp_path / "a/1.npy").unlink()
    np.save(tmp_path / "b/0000.npy", np.full((6, 6, 3), 99, np.uint8))
    run, note = apply_manifest(open_source(folders), path)
    assert note is not None
    assert "1 of its 6 files are gone, 1 are new" in note
    assert [run.describe(i) for i in range(6) if i != 1] == [source.describe(i) for i in range(6) if i != 1]
    with pytest.raises(UserError, match=r"now has 1 parts .* began with 2"):
        apply_manifest(FileSource(source.spec, opened(tmp_path / "b").files, channels=3, canvas=None), path)


def test_sources_without_files_have_no_list(tmp_path: Path) -> None:
    scenes = open_source("scenes:8:32")
    write_manifest(scenes, tmp_path / "files.gz")
    assert not (tmp_path / "files.gz").exists()
    assert apply_manifest(scenes, tmp_path / "files.gz") == (scenes, None)
    assert not changed_during_run(scenes, 0)
