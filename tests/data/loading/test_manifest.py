"""A run keeps its list of files: what comes, goes or changes is named and never reorders what it shows."""

import gzip
import os
import time
from pathlib import Path

import numpy as np
import pytest

from repre.data.io.image_files import FileSource
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
    assert kept.names() == source.names()


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
    for path in folder.iterdir():
        os.utime(path, (time.time() - 100,) * 2)
    write_manifest(opened(folder), tmp_path / "files.gz")
    source, _ = apply_manifest(opened(folder), tmp_path / "files.gz")
    assert isinstance(source, FileSource)
    assert source.run_started is not None
    source.run_started -= 10**9  # file systems keep coarse times
    assert not any(changed_during_run(source, i) for i in range(8))
    np.save(folder / "3.npy", np.full((6, 6, 3), 33, np.uint8))
    os.utime(folder / "5.npy", (time.time() + 10**6,) * 2)  # a clock that was wrong is no change
    assert [i for i in range(8) if changed_during_run(source, i)] == [3]
    loader = Loader(source, batch_size=8, epochs=1, seed=0, canvas=8, workers=0)
    assert [b.changed for b in loader] == [[3]]


@pytest.mark.parametrize("damage", ["torn", "text", "number", "bomb"])
def test_a_damaged_list_is_refused(tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, path = photos(tmp_path / "photos"), tmp_path / "files.gz"
    write_manifest(opened(folder), path)
    whole = path.read_bytes()
    if damage == "bomb":
        monkeypatch.setattr("repre.data.loading.manifest.MAX_BYTES", 1000)
    path.write_bytes(
        {
            "torn": whole[:-9],
            "text": b"hello",
            "number": gzip.compress(b"soon\0a.npy"),
            "bomb": gzip.compress(bytes(10**6)),
        }[damage]
    )
    with pytest.raises(UserError, match="list of the run's files, is damaged"):
        apply_manifest(opened(folder), path)


@pytest.mark.parametrize("name", ["../secret.npy", "/etc/passwd"])
def test_a_list_that_climbs_out_of_the_data_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "files.gz"
    path.write_bytes(gzip.compress(f"1\x00{name}".encode()))
    with pytest.raises(UserError, match="names files outside of --data"):
        apply_manifest(opened(photos(tmp_path / "photos")), path)


def test_sources_without_files_have_no_list(tmp_path: Path) -> None:
    scenes = open_source("scenes:8:32")
    write_manifest(scenes, tmp_path / "files.gz")
    assert not (tmp_path / "files.gz").exists()
    assert apply_manifest(scenes, tmp_path / "files.gz") == (scenes, None)
    assert not changed_during_run(scenes, 0)
