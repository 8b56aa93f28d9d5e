"""Whether and where decoded images are kept: by mode, budget and disk; and which folders make room."""

import fcntl
import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from repre.data.io import cache_folders
from repre.data.io.cache_folders import CachedSource, estimate, with_cache
from repre.data.io.decode import UnreadableImage
from repre.data.io.sources import Source, open_source
from repre.data.io.torchvision_sets import ArraySource


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(12):
        pixels = random.integers(0, 256, (40 + number, 60, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.jpg")
    return folder


def kept(
    photos: Path, *, canvas: int = 64, epochs: int = 2, gib: float = 1.0, mode: Any = "auto"
) -> tuple[Source, str]:
    lines: list[str] = []
    source = with_cache(open_source(str(photos), canvas=canvas), mode=mode, gib=gib, epochs=epochs, log=lines.append)
    assert len(lines) <= 1
    return source, "".join(lines)


def load(source: Source) -> list[np.ndarray]:
    return [source.load(index) for index in range(len(source))]


@pytest.mark.parametrize("canvas", [64, 32])
def test_later_epochs_and_runs_show_the_same_pixels_without_decoding(
    photos: Path, canvas: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct = load(open_source(str(photos), canvas=canvas))
    source, line = kept(photos, canvas=canvas)
    assert "may delete it" in line
    first = load(source)
    monkeypatch.setattr("repre.data.io.image_files.read_image", None)  # decoding would raise
    for images in (first, load(source), load(kept(photos, canvas=canvas)[0])):
        for one, other in zip(images, direct, strict=True):
            assert one.dtype == other.dtype
            assert np.array_equal(one, other)


def test_another_canvas_or_list_has_another_folder(photos: Path) -> None:
    folders = []
    for canvas in (64, 32):
        source, _ = kept(photos, canvas=canvas)
        assert isinstance(source, CachedSource)
        folders.append(source.cache.folder)
    (photos / "03.jpg").unlink()
    source, _ = kept(photos)
    assert isinstance(source, CachedSource)
    assert len({*folders, source.cache.folder}) == 3


def test_a_changed_file_is_seen_and_a_damaged_one_raises_its_reason(photos: Path) -> None:
    source, _ = kept(photos)
    load(source)
    shutil.copy(photos / "07.jpg", photos / "02.jpg")
    assert np.array_equal(source.load(2), source.load(7))
    (photos / "05.jpg").write_bytes(b"nothing")
    (photos / "06.jpg").unlink()
    for index, reason in ((5, "not an image"), (6, "vanished")):
        with pytest.raises(UnreadableImage, match=reason):
            source.load(index)


def test_scenes_are_drawn_once_and_images_in_memory_are_left_there() -> None:
    lines: list[str] = []
    source = open_source("scenes:5:32")
    drawn = with_cache(source, mode="auto", gib=1, epochs=2, log=lines.append)
    assert isinstance(drawn, CachedSource)
    assert all(
        np.array_equal(one, other) for one, other in zip(load(drawn) + load(drawn), 2 * load(source), strict=True)
    )
    arrays = ArraySource("some", np.zeros((4, 8, 8, 3), np.uint8), None, [], channels=3)
    assert with_cache(arrays, mode="on", gib=1, epochs=2, log=lines.append) is arrays
    assert "already in memory" in lines[-1]


def test_auto_needs_several_epochs_a_budget_and_a_disk(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = type(open_source(str(photos), canvas=64))
    for settings, words in (
        ({"epochs": 1}, ""),
        ({"mode": "off"}, ""),
        ({"gib": 1e-6}, "more than --loader.cache-gib"),
    ):
        source, line = kept(photos, **settings)  # type: ignore[arg-type]
        assert type(source) is plain
        assert words in line
    assert isinstance(kept(photos, epochs=1, mode="on")[0], CachedSource)
    assert isinstance(kept(photos, gib=1e-6, mode="on")[0], CachedSource), "as many as fit"
    disk = namedtuple("disk", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk(2**40, 2**40, 2**30))
    source, line = kept(photos)
    assert type(source) is plain
    assert "too much for the 1.0 GiB that are free" in line


def test_a_folder_that_cannot_be_written_costs_a_line(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("REPRE_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr("repre.data.io.folder_index.write_cache", lambda *_: None)
    source, line = kept(photos)
    assert not isinstance(source, CachedSource)
    assert line.startswith("decoded images are not cached: ")


def test_folders_that_were_opened_longest_ago_make_room(photos: Path) -> None:
    sizes: dict[int, int] = {}
    folder: dict[int, Path] = {}
    for number, canvas in enumerate((60, 62, 64)):
        source, _ = kept(photos, canvas=canvas)
        assert isinstance(source, CachedSource)
        load(source)
        sizes[canvas] = source.cache.size
        os.utime(source.cache.folder, (number, number))
        folder[canvas] = source.cache.folder
        del source
    budget = (sizes[62] + sizes[64] + estimate(open_source(str(photos), canvas=58)) + 16384) / 2**30
    with open(folder[60] / "lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)  # as a running training
        kept(photos, canvas=58, gib=budget)
        assert folder[60].exists()
        assert not folder[62].exists()
        assert folder[64].exists()


def test_sizes_are_estimated_from_headers(photos: Path) -> None:
    for canvas in (64, 32):
        source = open_source(str(photos), canvas=canvas)
        exact = sum(image.nbytes + 4096 for image in load(source))
        assert abs(estimate(source) / exact - 1) < 0.05
    (photos / "00.jpg").write_bytes(b"damaged")
    assert estimate(open_source(str(photos), canvas=64)) > 0


def test_without_a_home_the_cache_is_among_the_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REPRE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    folder = cache_folders.cache_home()
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o077 == 0
    folder.chmod(0o777)
    with pytest.raises(Exception, match="REPRE_CACHE"):
        cache_folders.cache_home()
