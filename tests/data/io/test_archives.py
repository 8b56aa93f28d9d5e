"""Archives give the images of the folder that they were made of, and every kind of damage has one message."""

import os
import pickle
import signal
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from repre.data.io import archives
from repre.data.io.image_files import FileSource
from repre.data.io.image_limits import UnreadableImage
from repre.data.io.sources import open_source
from repre.data.loading.loader import Loader
from repre.data.loading.manifest import apply_manifest, changed_during_run, write_manifest
from repre.errors import RunError, UserError
from tests.data.files import picture
from tests.data.packing import add_member, class_folder, files_of, pack_shards, pack_tar, pack_zip


def opened(spec: str | Path) -> FileSource:
    source = open_source(str(spec))
    assert isinstance(source, FileSource)
    return source


@pytest.mark.parametrize("kind", ["tar", "shards", "folder of shards", "zip", "stored zip", "GNU tar", "long names"])
def test_an_archive_is_its_folder(kind: str, tmp_path: Path) -> None:
    folder = class_folder(tmp_path / "photos")
    if kind == "long names":
        for path in files_of(folder):
            path.rename(path.with_name(f"{'n' * 150}{path.name}"))
    reference = opened(folder)
    if kind == "GNU tar":
        os.system(f"cd {folder} && tar -cf {tmp_path}/x.tar .")  # names begin with ./, folders are members
    spec = {
        "tar": lambda: pack_tar(folder, tmp_path / "x.tar"),
        "GNU tar": lambda: tmp_path / "x.tar",
        "long names": lambda: pack_tar(folder, tmp_path / "x.tar"),
        "shards": lambda: pack_shards(folder, tmp_path / "shards"),
        "folder of shards": lambda: pack_shards(folder, tmp_path / "shards").rpartition("/")[0],
        "zip": lambda: pack_zip(folder, tmp_path / "x.zip"),
        "stored zip": lambda: pack_zip(folder, tmp_path / "x.zip", packing=zipfile.ZIP_STORED),
    }[kind]()
    source = pickle.loads(pickle.dumps(opened(spec)))
    assert source.files.names == reference.files.names
    assert source.classes == reference.classes == ["cat", "dog"]
    assert np.array_equal(source.labels, reference.labels)
    for index in range(len(reference)):
        assert np.array_equal(source.load(index), reference.load(index))
    archive = sorted(tmp_path.glob("**/*.tar")) or [tmp_path / "x.zip"]
    assert source.describe(0) == f"{archive[0]}: {reference.files.names[0]}"
    assert source.files.stamp(0)[0] == reference.files.stamp(0)[0]


def test_the_list_of_members_is_kept_and_made_again_for_shards_that_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = pack_shards(class_folder(tmp_path / "photos"), tmp_path / "shards")
    first = opened(spec)
    listed: list[str] = []
    real = archives.list_tar
    monkeypatch.setattr(archives, "list_tar", lambda file, location: listed.append(location) or real(file, location))
    assert opened(spec).files.names == first.files.names
    assert not listed
    other = class_folder(tmp_path / "others", 4, ("dog", "owl"))
    shard = pack_tar(other, tmp_path / "shards/0001.tar")
    os.utime(shard, ns=(10**18, 10**18))
    again = opened(spec)
    assert listed == [str(shard)]
    assert again.classes == ["cat", "dog", "owl"]
    assert len(again) == len(first)
    for index in range(4, 8):
        assert np.array_equal(again.load(index), opened(other).load(index - 4))
    assert np.array_equal(again.load(11), first.load(11))


def test_a_shard_that_changes_under_a_run_is_noticed(tmp_path: Path) -> None:
    folder = class_folder(tmp_path / "photos")
    shard = pack_tar(folder, tmp_path / "x.tar")
    source, stamp = opened(shard), os.stat(shard)
    pack_tar(folder, shard, files_of(folder)[::-1])
    with pytest.raises(UnreadableImage, match="changed after it was listed; run the command again"):
        source.load(0)
    os.utime(shard, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # as rsync -a leaves it: only the content tells
    assert os.stat(shard).st_size == stamp.st_size
    with pytest.raises(UnreadableImage, match="archive changed after its index was made"):
        [source.load(index) for index in range(len(source))]
    shard.unlink()
    again = pickle.loads(pickle.dumps(source))
    again.patience = 0
    with pytest.raises(RunError, match="missing, and so is all other data"):
        again.load(0)


def test_one_of_several_archives_that_is_missing_has_vanished(tmp_path: Path) -> None:
    source = opened(pack_shards(class_folder(tmp_path / "photos"), tmp_path / "shards", count=2))
    first, second = sorted((tmp_path / "shards").iterdir())
    first.unlink()
    with pytest.raises(UnreadableImage, match="vanished"):
        source.load(0)
    second.unlink()
    source.patience = 0
    with pytest.raises(RunError, match="missing, and so is all other data"):
        source.load(0)


def test_more_archives_than_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "OPEN_ARCHIVES", 2)
    source = opened(pack_shards(class_folder(tmp_path / "photos"), tmp_path / "shards", count=4))
    reference = opened(tmp_path / "photos")
    for index in [*range(12), *range(11, -1, -1)]:
        assert np.array_equal(source.load(index), reference.load(index))
        assert len(source.files._used) <= 2  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        ("cut in a member", "damaged or cut tar archive"),
        ("cut between members", "ends without the end mark .* it was cut"),
        ("two in one", "has data after its end mark"),
        ("one name twice", "two members called 'a.png'"),
        ("one name twice, zip", "two members called 'a.png'"),
        ("link", "is a link to another file; .*--dereference"),
        ("compressed", "compressed as a whole"),
        ("compressed inside", "name a tar archive without compression"),
        ("cut zip", "damaged or cut zip archive"),
        ("bzip2 in zip", "compressed by method 12"),
        ("encrypted", "is encrypted"),
        ("no image", "holds no images"),
        ("empty file", r"\(empty file\); is the download complete"),
        ("missing", r"2 of 2 archives do not exist: .*nothing.tar, .*none.tar$"),
        ("missing shard", r"1 of 2 archives do not exist: .*0001.tar$"),
        ("empty range", "is empty or too long"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_every_mistake_has_a_message(make: str, message: str, tmp_path: Path) -> None:
    folder = class_folder(tmp_path / "photos", 4)
    tar, zipped = pack_tar(folder, tmp_path / "x.tar"), pack_zip(folder, tmp_path / "x.zip")
    spec: Path | str = zipped if "zip" in make or make == "encrypted" else tar
    if make == "cut in a member":
        tar.write_bytes(tar.read_bytes()[:1000])
    elif make == "cut between members":
        with tarfile.open(tar) as archive:
            last = archive.getmembers()[-1]
        tar.write_bytes(tar.read_bytes()[: last.offset])
    elif make == "two in one":
        tar.write_bytes(tar.read_bytes() * 2)
    elif make == "one name twice":
        with tarfile.open(tar, "w") as archive:
            for name in ("a.png", "b.png", "./a.png"):
                add_member(archive, name)
    elif make == "one name twice, zip":
        with zipfile.ZipFile(zipped, "w") as written:
            written.writestr("a.png", b"1")
            written.writestr("a.png", b"2")
    elif make == "link":
        (folder / "cat/link.png").symlink_to("000.png")
        pack_tar(folder, tar)
    elif make == "compressed":
        spec = tmp_path / "x.tar.gz"
        spec.write_bytes(b"")
    elif make == "compressed inside":
        with tarfile.open(tar, "w:gz") as archive:
            archive.add(folder, "photos")
    elif make == "cut zip":
        zipped.write_bytes(zipped.read_bytes()[:-40])
    elif make == "bzip2 in zip":
        pack_zip(folder, zipped, packing=zipfile.ZIP_BZIP2)
    elif make == "encrypted":
        content = bytearray(zipped.read_bytes())
        at = content.rindex(b"PK\x01\x02")
        content[at + 8] |= 1
        zipped.write_bytes(bytes(content))
    elif make == "no image":
        with tarfile.open(tar, "w") as archive:
            add_member(archive, "notes.txt")
            add_member(archive, "__MACOSX/._a.png")
    elif make == "empty file":
        tar.write_bytes(b"")
    elif make == "missing":
        spec = tmp_path / "{nothing,none}.tar"
    elif make == "missing shard":
        pack_tar(folder, tmp_path / "s/0000.tar")
        spec = f"{tmp_path}/s/{{0000..0001}}.tar"
    elif make == "empty range":
        spec = f"{tmp_path}/s/{{0003..0001}}.tar"
    with pytest.raises(UserError, match=message):
        opened(spec)


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_member_of_a_zip_is_one_unreadable_image(packing: int, tmp_path: Path) -> None:
    folder = class_folder(tmp_path / "photos", 4)
    zipped = pack_zip(folder, tmp_path / "x.zip", packing=packing)
    source = opened(zipped)
    place = int(source.files.table["offset"][2])  # type: ignore[attr-defined]
    content = bytearray(zipped.read_bytes())
    content[place + 100 : place + 120] = bytes(20)
    zipped.write_bytes(bytes(content))
    with pytest.raises(UnreadableImage, match="damaged in the archive"):
        opened(zipped).load(2)
    assert np.array_equal(opened(zipped).load(1), opened(folder).load(1))


def test_a_picture_that_is_no_member_of_a_class_has_no_label(tmp_path: Path) -> None:
    folder = class_folder(tmp_path / "photos", 4)
    picture(folder / "loose.png")
    assert opened(pack_tar(folder, tmp_path / "x.tar")).labels is None


def test_the_death_of_a_worker_names_the_archive_and_the_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = opened(pack_shards(class_folder(tmp_path / "photos"), tmp_path / "shards"))
    load = FileSource.load

    def killed_at_five(self: FileSource, index: int) -> np.ndarray:
        if index == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return load(self, index)

    monkeypatch.setattr(FileSource, "load", killed_at_five)
    loader = Loader(source, batch_size=4, epochs=3, seed=0, canvas=32, workers=1, log=lambda _: None)
    with pytest.raises(RunError, match=r"a worker process died .*shards/0001\.tar: cat/010\.jpg"):
        list(loader)


def test_members_of_a_shard_that_is_newer_than_its_run_have_changed(tmp_path: Path) -> None:
    """As after a resume: the list of members is made again, the run keeps its order and names what may be other images."""
    spec = pack_shards(class_folder(tmp_path / "photos"), tmp_path / "shards")
    write_manifest(opened(spec), tmp_path / "files.gz")
    past = opened(spec).files.stamp(0)[1] - 10**9
    for number in range(3):
        os.utime(tmp_path / f"shards/{number:04}.tar", ns=(past, past))
    os.utime(tmp_path / "shards/0001.tar")
    source, note = apply_manifest(opened(spec), tmp_path / "files.gz")
    assert note is None
    assert isinstance(source, FileSource)
    assert source.run_started is not None
    source.run_started = past + 1
    assert [index for index in range(12) if changed_during_run(source, index)] == [4, 5, 6, 7]


def test_a_member_that_claims_to_be_huge_is_never_read(tmp_path: Path) -> None:
    source = opened(pack_zip(class_folder(tmp_path / "photos", 4), tmp_path / "x.zip"))
    source.files.table["packed"][1] = 1 << 62  # type: ignore[attr-defined]  # as a forged directory says
    with pytest.raises(UnreadableImage, match="larger than any image"):
        source.load(1)


def test_archives_of_one_relative_path_in_two_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one size and time, as reproducible archives and coarse clocks make them."""
    opened_sources = []
    for value, name in ((10, "a.png"), (20, "b.png")):
        folder = picture(tmp_path / name / "photos" / name, value).parent
        archive = pack_tar(folder, tmp_path / name / "x.tar")
        os.utime(archive, ns=(10**18, 10**18))
        monkeypatch.chdir(tmp_path / name)
        opened_sources.append(opened("x.tar"))
    assert [list(source.files.names) for source in opened_sources] == [["a.png"], ["b.png"]]
    assert opened_sources[0].files.location != opened_sources[1].files.location


def test_members_above_the_folder_and_odd_paths_are_taken(tmp_path: Path) -> None:
    """As Python writes ../photos, `tar c photos/.` photos/./cat, and old Windows tools cat\\1.png."""
    content = picture(tmp_path / "a.png").read_bytes()
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name in ("../photos/1.png", "photos/./cat/2.png", "photos/.cat/3.png"):
            add_member(archive, name, content)
    source = opened(tmp_path / "x.tar")
    assert list(source.files.names) == ["../photos/1.png", "photos/cat/2.png"]
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as written:
        for name, system in (("cat/1.png", 0), ("dog/2.png", 0), ("dog/3_4.png", 3)):
            member = zipfile.ZipInfo(name)
            member.create_system = system
            written.writestr(member, content)
    packed = (tmp_path / "x.zip").read_bytes()
    for name in (b"cat/1", b"dog/2", b"3_4"):  # zipfile itself writes no backslashes
        packed = packed.replace(name, name.replace(b"/", b"\\").replace(b"_", b"\\"))
    (tmp_path / "x.zip").write_bytes(packed)
    source = opened(tmp_path / "x.zip")
    assert list(source.files.names) == ["cat/1.png", "dog/2.png", "dog/3\\4.png"]
    assert source.classes == ["cat", "dog"]
    assert source.load(0).shape == (10, 12, 3)
