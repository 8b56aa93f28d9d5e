"""Shards hold the images of any source in its order; a kill in the middle and a second call give the same bytes."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from repre.data.io.file_choice import FileChoice
from repre.data.io.image_files import FileSource
from repre.data.io.sources import Source, open_source
from repre.data.tools import shard
from repre.data.tools.shard import MANIFEST, ShardReport, write_shards
from repre.data.tools.shard_config import ShardConfig
from repre.errors import RunError, UserError
from tests.data.files import picture

SMALL = ShardConfig(shard_mib=1)


def noisy(path: Path, seed: int, side: int = 200) -> Path:
    """A PNG of about 117 KiB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)).save(path)
    return path


def class_folders(root: Path, count: int = 20) -> Path:
    """About 2.3 MiB in two classes."""
    for number in range(count):
        noisy(root / ("cat" if number < count // 2 else "owl") / f"{number:02}.png", number)
    return root


def write(data: str | Sequence[str], out: Path, config: ShardConfig = SMALL, workers: int = 0) -> ShardReport:
    return write_shards(open_source(data), out, config=config, workers=workers)


def assert_same_images(one: Source, other: Source) -> None:
    assert len(one) == len(other)
    for index in range(len(one)):
        assert np.array_equal(one.load(index), other.load(index)), one.describe(index)


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("shard*"))}


@pytest.mark.parametrize("workers", [0, 2])
def test_copied_files_are_those_of_the_folder_in_its_order(tmp_path: Path, workers: int) -> None:
    folder = class_folders(tmp_path / "photos")
    report = write(str(folder), tmp_path / "out", workers=workers)
    source, shards = open_source(str(folder)), open_source(str(tmp_path / "out"))
    assert isinstance(source, FileSource)
    assert isinstance(shards, FileSource)
    assert_same_images(source, shards)
    assert source.files.names == shards.files.names
    assert np.array_equal(source.labels, shards.labels)
    assert source.classes == shards.classes
    assert (report.images, report.shards, report.written) == (20, 3, 3)
    sizes = [len(content) for name, content in contents(tmp_path / "out").items() if name.endswith(".tar")]
    assert sum(sizes) == report.bytes
    assert all(size <= 1 << 20 for size in sizes)
    with tarfile.open(tmp_path / "out/shard-000000.tar") as archive:
        member = archive.getmembers()[0]
        assert (member.name, member.mtime, member.uid, member.mode) == ("cat/00.png", 0, 0, 0o644)
        file = archive.extractfile(member)
        assert file is not None
        assert file.read() == (folder / "cat/00.png").read_bytes()


@pytest.mark.parametrize("workers", [0, 2])
def test_shrunk_images_are_those_of_a_run_with_that_decode_size(tmp_path: Path, workers: int) -> None:
    folder = class_folders(tmp_path / "photos", 6)
    picture(folder / "owl/small.png")
    write(str(folder), tmp_path / "out", ShardConfig(size=64, format="png"), workers=workers)
    shards = open_source(str(tmp_path / "out"))
    assert_same_images(open_source(str(folder), canvas=64), shards)
    assert shards.load(6).shape == (10, 12, 3)
    report = write(str(folder), tmp_path / "jpeg", ShardConfig(size=64), workers=workers)
    assert report.images == 7
    jpeg = open_source(str(tmp_path / "jpeg"))
    assert isinstance(jpeg, FileSource)
    assert list(jpeg.files.names) == [
        *(f"cat/0{n}.jpg" for n in range(3)),
        *(f"owl/0{n}.jpg" for n in range(3, 6)),
        "owl/small.png",
    ]


def test_files_that_differ_in_their_endings_alone_and_long_and_odd_names(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    long = f"é/{'x' * 150}/{'y' * 90}"
    names = ["a.jpg", "a.png", "b.png", os.fsdecode(b"z\xff.png"), f"{long}.png"]
    for number, name in enumerate(names):
        noisy(folder / name, number, 20)
    write(str(folder), tmp_path / "out", ShardConfig(size=10))
    shards = open_source(str(tmp_path / "out"))
    assert isinstance(shards, FileSource)
    expected = ["a.jpg", "a.png.jpg", "b.jpg", os.fsdecode(b"z\xff.jpg"), f"{long}.jpg"]
    assert list(shards.files.names) == expected


def test_any_source_keeps_its_order(tmp_path: Path) -> None:
    """Lists in any order, several folders, and shards again."""
    one, two = class_folders(tmp_path / "b", 6), class_folders(tmp_path / "a", 6)
    lines = [f"b/{path.relative_to(one)}" for path in sorted(one.rglob("*.png"), reverse=True)] + [f"{two}/cat/00.png"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    write(str(tmp_path / "list.txt"), tmp_path / "list")
    listed = open_source(str(tmp_path / "list"))
    assert_same_images(open_source(str(tmp_path / "list.txt")), listed)
    assert isinstance(listed, FileSource)
    assert list(listed.files.names)[:2] == ["00000000.png", "00000001.png"]
    both = [str(one), str(two)]
    write(both, tmp_path / "both")
    joined = open_source(str(tmp_path / "both"))
    assert_same_images(open_source(both), joined)
    assert isinstance(joined, FileSource)
    assert joined.files.counts == [6, 6]
    assert joined.classes == ["cat", "owl"]
    write(str(tmp_path / "both"), tmp_path / "again")
    assert contents(tmp_path / "again").keys() == contents(tmp_path / "both").keys()
    assert_same_images(joined, open_source(str(tmp_path / "again")))
    chosen = open_source(str(one), choice=FileChoice(include=("owl/*",)))
    write_shards(chosen, tmp_path / "chosen", config=SMALL, workers=0)
    assert_same_images(chosen, open_source(str(tmp_path / "chosen")))


def test_rows_get_numbers_as_names(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    from tests.data.io.hub import offline, rows

    with offline(tmp_path / "hf"):
        assert datasets
        rows(6).save_to_disk(tmp_path / "saved")
        write(f"hf:{tmp_path}/saved", tmp_path / "out")
        shards = open_source(str(tmp_path / "out"))
        assert_same_images(open_source(f"hf:{tmp_path}/saved"), shards)
    assert isinstance(shards, FileSource)
    assert shards.files.names[5] == "00000005.png"


SLOW_COMMAND = """
import sys, time
from repre.data.tools import shard_images
from repre.cli.main import main
encode = shard_images.encode
def slow(*arguments, **options):
    time.sleep(0.05)
    return encode(*arguments, **options)
shard_images.encode = slow
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_killed_call_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "photos", 40)
    options = ["data", "shard", str(folder), "--shard-mib", "1", "--workers", "1", "--out"]
    out = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", SLOW_COMMAND, *options, str(out)])
    while not (out / "shard-000001.tar").is_file() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 1 < len(list(out.glob("*.tar"))) < 5
    (out / ".shard-000002.tar.partial").write_bytes(b"cut by the kill")
    report = write(str(folder), out)
    assert 0 < report.written < report.shards
    write(str(folder), tmp_path / "straight")
    assert contents(out) == contents(tmp_path / "straight")
    again = write(str(folder), out)
    assert (again.written, again.shards, again.images) == (0, report.shards, 40)
    assert not list(out.glob(".*.partial"))


def test_a_kill_between_a_shard_and_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = class_folders(tmp_path / "photos")
    write(str(folder), tmp_path / "straight")
    for shards in (1, 2):
        monkeypatch.setattr(shard, "write_json", fail_after(shards - 1))
        with pytest.raises(KeyboardInterrupt):
            write(str(folder), tmp_path / f"{shards}")
        monkeypatch.undo()
        assert len(list((tmp_path / f"{shards}").glob("*.tar"))) == shards
        assert write(str(folder), tmp_path / f"{shards}").written == 4 - shards
        assert contents(tmp_path / f"{shards}") == contents(tmp_path / "straight")


def fail_after(calls: int) -> object:
    left, write_json = [calls], shard.write_json

    def write_or_fail(path: Path, content: object) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        write_json(path, content)

    return write_or_fail


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_shard_is_written_again(tmp_path: Path, damage: str) -> None:
    folder, out = class_folders(tmp_path / "photos"), tmp_path / "out"
    write(str(folder), out)
    before = contents(out)
    path = out / "shard-000001.tar"
    if damage == "gone":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[5000] ^= 1
        path.write_bytes(content if damage == "changed" else content[:-20_000])
    assert write(str(folder), out).written == 2  # that one and those after it
    assert contents(out) == before


def test_unreadable_files_are_left_out_listed_and_remembered(tmp_path: Path) -> None:
    folder, out = class_folders(tmp_path / "photos", 6), tmp_path / "out"
    for name in ("cat/00.png", "owl/05.png"):
        (folder / name).write_bytes((folder / name).read_bytes()[:500])
    config = ShardConfig(size=50)
    for _ in range(2):
        report = write(str(folder), out, config)
        assert [Path(name).name for name, _ in report.unreadable] == ["00.png", "05.png"]
        assert report.images == 4
    assert "unreadable and left out (2):" in report.lines()
    for path in folder.rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(RunError, match=r"none of the 6 files of .*00.png: not an image"):
        write(str(folder), tmp_path / "none", config)


def test_other_content_is_refused(tmp_path: Path) -> None:
    folder, out = class_folders(tmp_path / "photos", 4), tmp_path / "out"
    write(str(folder), out)
    with pytest.raises(UserError, match="size: None there, 64 here"):
        write(str(folder), out, ShardConfig(size=64, shard_mib=1))
    picture(folder / "cat/new.png")
    with pytest.raises(UserError, match="4 files there, 5 here"):
        write(str(folder), out)
    manifest = out / MANIFEST
    manifest.write_bytes(manifest.read_bytes()[:-100])
    with pytest.raises(UserError, match="is damaged"):
        write(str(folder), out)
    manifest.write_text(json.dumps([]))
    with pytest.raises(UserError, match="is damaged"):
        write(str(folder), out)
    with pytest.raises(UserError, match=f"not empty, and has no {MANIFEST}"):
        write(str(folder), folder)
    with pytest.raises(UserError, match="cannot be written"):
        write(str(folder), picture(tmp_path / "file.png"))
    with pytest.raises(UserError, match="in memory"):
        write("scenes:4:32", tmp_path / "scenes")


LOCKING_COMMAND = """
import fcntl, sys, time
lock = open(sys.argv[1], "ab")
fcntl.lockf(lock, fcntl.LOCK_EX)
print("locked", flush=True)
time.sleep(60)
"""


def test_two_processes_are_kept_apart(tmp_path: Path) -> None:
    folder, out = class_folders(tmp_path / "photos", 4), tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "-c", LOCKING_COMMAND, str(out / ".lock")]
    other = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert other.stdout is not None
    other.stdout.read(1)
    with pytest.raises(UserError, match="another process writes shards"):
        write(str(folder), out)
    other.kill()
    other.wait()
    other.stdout.close()
    assert write(str(folder), out).images == 4


def test_a_full_disk_ends_with_a_message_and_whole_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out = class_folders(tmp_path / "photos"), tmp_path / "out"
    replace, calls = os.replace, []

    def full(source: Path, target: Path) -> None:
        calls.append(target)
        if Path(target).name == "shard-000001.tar":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(RunError, match=r"could not write .*shard-000001.tar: .*No space left"):
        write(str(folder), out)
    monkeypatch.undo()
    assert sorted(path.name for path in out.iterdir()) == [".lock", "shard-000000.tar", MANIFEST]
    assert write(str(folder), out).written == 2
    assert_same_images(open_source(str(folder)), open_source(str(out)))


def test_a_disk_that_returns_other_bytes_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomically = shard.write_atomically

    def damaged(path: Path, write: object) -> None:
        write_atomically(path, write)
        path.write_bytes(path.read_bytes()[:-1] + b"x")

    monkeypatch.setattr(shard, "write_atomically", damaged)
    with pytest.raises(RunError, match=r"shard-000000.tar was written, but its checksum differs"):
        write(str(class_folders(tmp_path / "photos", 4)), tmp_path / "out")


def test_other_images_of_the_same_names_are_refused(tmp_path: Path) -> None:
    for seed, folder in enumerate(("one", "other")):
        for number in range(3):
            noisy(tmp_path / folder / f"{number}.png", 3 * seed + number)
    write(str(tmp_path / "one"), tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(UserError, match="their names are the same, their content is not"):
        write(str(tmp_path / "other"), tmp_path / "out")
    (tmp_path / "one").rename(tmp_path / "moved")
    assert write(str(tmp_path / "moved"), tmp_path / "out").written == 0
    assert contents(tmp_path / "out") == before
