"""Images at addresses: the pixels of a folder from every protocol and kind, faults of the network, and what is refused."""

import pickle
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.spec import AbstractFileSystem
from PIL import Image

from repre.data.io import remote_access, remote_files, remote_listing
from repre.data.io.file_choice import FileChoice
from repre.data.io.image_files import FileSource
from repre.data.io.image_limits import UnreadableImage
from repre.data.io.names import Names
from repre.data.io.remote_cache import RemoteCache
from repre.data.io.remote_files import RemoteFiles
from repre.data.io.sources import open_source
from repre.data.labels.classes import open_labeled
from repre.errors import UserError
from tests.data.io import remote_servers as servers
from tests.data.io.remote_servers import KEY, SECRET, Fault, Server

NAMES = ["a b/0.png", "a b/1.jpg", "a b/2.png", "cat/3.jpg", "cat/ü 4.png"]


STALL = servers.stall(1.5)


@dataclass
class Places:
    """The same images in a folder, on a web server and in a bucket."""

    root: Path
    web: Server

    @property
    def folder(self) -> FileSource:
        return opened(str(self.root / "photos"))


def opened(spec: str, **options: object) -> FileSource:
    source = open_source(spec, **options)  # type: ignore[arg-type]
    assert isinstance(source, FileSource)
    return source


def write_photos(folder: Path, names: list[str] = NAMES) -> None:
    rng = np.random.default_rng(0)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (12, 17, 3), np.uint8)).save(folder / name)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    """The images as a folder, tar shards, a zip archive and text lists; they stay as they are."""
    root = tmp_path_factory.mktemp("remote")
    write_photos(root / "photos")
    (root / "photos/.hidden.png").write_bytes(b"none")
    (root / "photos/notes.doc").write_bytes(b"none")
    (root / "shards").mkdir()
    for number in range(2):
        with tarfile.open(root / f"shards/{number:02}.tar", "w") as archive:
            for name in NAMES[number * 3 : number * 3 + 3]:
                archive.add(root / "photos" / name, name)
    with zipfile.ZipFile(root / "photos.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in NAMES:
            packed.write(root / "photos" / name, name)
    (root / "photos/list.txt").write_text("# names\n" + "\n".join(NAMES))
    with servers.web_server(root) as web, servers.s3_server():
        (root / "absolute.txt").write_text("\n".join(f"{web.url}/photos/{name}" for name in NAMES))
        servers.upload(root, "data")
        yield Places(root, web)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Short waits, and a cache of its own."""
    monkeypatch.setattr(remote_access, "FIRST_WAIT", 0.002)
    monkeypatch.setenv("REPRE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture(scope="module")
def one_web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with servers.web_server(tmp_path_factory.mktemp("web")) as server:
        yield server


@pytest.fixture
def web(one_web: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A web server of a folder of the test's own, which is also the endpoint of S3."""
    write_photos(tmp_path / "web/photos")
    one_web.root, one_web.ranges = tmp_path / "web", True
    one_web.faults.clear()
    one_web.requests.clear()
    servers.use_s3(monkeypatch, one_web.url)
    return one_web


def files_of(server: Server, protocol: str = "http", *, gib: float = 0) -> RemoteFiles:
    """The files of `web`, without a listing."""
    root = f"{server.url}/photos/" if protocol == "http" else "s3://photos/"
    return RemoteFiles(root, Names.of(NAMES), cache=RemoteCache(gib))


SPECS: dict[str, Callable[[Places], str]] = {
    "s3 folder": lambda places: "s3://photos-bucket/data/photos",
    "s3 list": lambda places: "s3://photos-bucket/data/photos/list.txt",
    "s3 shards": lambda places: "s3://photos-bucket/data/shards/{00..01}.tar",
    "s3 folder of shards": lambda places: "s3://photos-bucket/data/shards/",
    "s3 zip": lambda places: "s3://photos-bucket/data/photos.zip",
    "web folder": lambda places: f"{places.web.url}/photos",
    "web list": lambda places: f"{places.web.url}/photos/list.txt?version=3",
    "web list of addresses": lambda places: f"{places.web.url}/absolute.txt",
    "local list of addresses": lambda places: str(places.root / "absolute.txt"),
    "web shards": lambda places: f"{places.web.url}/shards/{{00..01}}.tar",
    "web folder of shards": lambda places: f"{places.web.url}/shards/",
    "web zip": lambda places: f"{places.web.url}/photos.zip?version=3",
    "gs folder": lambda places: "gs://b/photos/",
    "gs shards": lambda places: "gs://b/shards/{00..01}.tar",
    "file folder": lambda places: f"file://{places.root}/photos/",
}


@pytest.mark.parametrize("kind", SPECS)
def test_every_place_gives_the_images_of_the_folder(places: Places, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", places.web.url)
    folder, source = places.folder, opened(SPECS[kind](places))
    names = [name.removeprefix("photos/") for name in source.files.names]
    assert names == [*folder.files.names] == NAMES
    if "addresses" not in kind and "list" not in kind:
        assert source.classes == ["a b", "cat"]
        assert np.array_equal(source.labels, folder.labels)
    for again in range(2):  # from the server, then from the cache
        copy = pickle.loads(pickle.dumps(source)) if again else source
        for index in range(len(folder)):
            assert np.array_equal(copy.load(index), folder.load(index)), (kind, names[index])
            assert names[index] in copy.describe(index)
            size, modified = copy.files.stamp(index)
            listed = kind.startswith(("s3 folder", "gs", "file"))
            assert not listed or (size == folder.files.stamp(index)[0] and abs(modified / 1e9 - time.time()) < 3600)


@pytest.mark.parametrize("protocol", ["http", "s3"])
@pytest.mark.parametrize(
    "faults",
    [
        [servers.status(503), servers.status(503)],
        [servers.status(429), servers.status(500)],
        [servers.cut, servers.cut],
        [servers.reset, servers.too_long],
        [STALL, servers.cut],
    ],
    ids=["503", "429", "cut", "reset", "stall"],
)
def test_passing_faults_are_survived(
    web: Server, protocol: str, faults: list[Fault], monkeypatch: pytest.MonkeyPatch
) -> None:
    if faults[0] is STALL:
        monkeypatch.setattr(remote_access, "STALL_SECONDS", 0.3)
        monkeypatch.setattr(remote_access, "_systems", {})
    web.faults["/photos/a b/0.png"] = list(faults)
    with files_of(web, protocol).open(0) as file:
        assert file.read() == (web.root / "photos/a b/0.png").read_bytes()
    assert len(web.requests) == 3 or faults[0] is servers.reset  # after which aiohttp may try a new connection itself


@pytest.mark.parametrize("protocol", ["http", "s3"])
@pytest.mark.parametrize(
    ("fault", "reason", "attempts"),
    [
        (servers.status(503), "the server answered 503", 6),
        (servers.cut, "the answer ended early", 6),
        (servers.too_long, "the answer ended early", 6),
        (servers.reset, "no connection", 6),
        (servers.status(404), "not found (404", 1),
        (servers.status(403), "access denied (403", 1),
        (servers.status(401), "access denied (401", 1),
        (servers.status(418), "the server answered 418", 1),
    ],
    ids=["503", "cut", "too long", "reset", "404", "403", "401", "418"],
)
def test_lasting_faults_make_a_file_unreadable_with_a_short_reason(
    web: Server, protocol: str, fault: Fault, reason: str, attempts: int, tmp_path: Path
) -> None:
    (tmp_path / ".netrc").write_text(f"machine 127.0.0.1 login {KEY} password {SECRET}")
    web.faults["/photos/a b/0.png"] = [fault] * 20
    with pytest.raises(UnreadableImage) as error:
        files_of(web, protocol).open(0)
    text = str(error.value)
    assert text.startswith(reason)
    assert text.endswith(f"({attempts} attempts)") == (attempts > 1)
    assert len(web.requests) == attempts or fault is servers.reset
    assert len(text) < 100
    assert all(secret not in text + repr(error.value.__cause__) for secret in (KEY, SECRET, "http:", "Authorization"))
    assert all(authorization for _, _, authorization in web.requests)


@pytest.mark.parametrize("protocol", ["http", "s3"])
def test_a_stall_ends_in_bounded_time(web: Server, protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit for all attempts holds though none for a single wait would."""
    monkeypatch.setattr(remote_access, "TOTAL_SECONDS", 0.5)
    remote_access.attempt("s3" if protocol == "s3" else "http", lambda system: system.set_session(), seconds=60)
    web.faults["/photos/a b/0.png"] = [servers.stall(3.0)] * 2
    begin = time.monotonic()
    with pytest.raises(UnreadableImage, match="no answer in time"):
        files_of(web, protocol).open(0)
    assert time.monotonic() - begin < 2.5


def test_a_library_that_blocks_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    class Blocking(AbstractFileSystem):
        protocol = "blocking"

        def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: object) -> bytes:
            release.wait(10)
            return b""

    fsspec.register_implementation("blocking", Blocking, clobber=True)
    monkeypatch.setattr(remote_access, "TOTAL_SECONDS", 0.2)
    with pytest.raises(UnreadableImage, match="no answer in time"):
        RemoteFiles("blocking://x/", Names.of(["a.png"]), cache=RemoteCache(0)).open(0)
    release.set()


def test_a_file_that_changed_after_it_was_listed_is_unreadable(web: Server) -> None:
    files = files_of(web)
    files.sizes, files.times = np.full(5, 7), np.zeros(5, np.int64)
    with pytest.raises(UnreadableImage, match=r"bytes instead of 7 \(6 attempts\)"):
        files.open(0)


def test_fetched_files_come_from_the_disk_until_they_change(web: Server) -> None:
    files = files_of(web, gib=1)
    content = files.open(0).read()
    assert files_of(web, gib=1).open(0).read() == content
    assert len(web.requests) == 1
    files.sizes, files.times = np.full(5, len(content)), np.ones(5, np.int64)
    assert files.open(0).read() == content
    assert len(web.requests) == 2


def test_a_page_in_place_of_an_image_is_not_kept(web: Server) -> None:
    web.faults["/photos/a b/0.png"] = [lambda handler: handler.answer(200, b"<html>Log in</html>")]
    source = FileSource("x", files_of(web, gib=1), channels=3, canvas=None)
    with pytest.raises(UnreadableImage):
        source.load(0)
    assert source.load(0).shape == (12, 17, 3)


def test_an_archive_is_listed_once_and_read_in_parts(places: Places) -> None:
    spec = f"{places.web.url}/shards/{{00..01}}.tar"
    opened(spec)
    places.web.requests.clear()
    source = opened(spec)
    assert [one for _, one, _ in places.web.requests] == ["bytes=0-0"] * 2
    source.load(4)
    source.load(4)
    assert len(places.web.requests) == 3
    path, part, _ = places.web.requests[-1]
    first, last = map(int, part.removeprefix("bytes=").split("-"))
    assert path == "/shards/01.tar"
    assert last - first + 1 == 512 + source.files.stamp(4)[0]
    assert source.describe(4) == f"{places.web.url}/shards/01.tar: cat/ü 4.png"


def test_the_stamps_of_many_shards_come_from_one_listing(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", places.web.url)
    opened("gs://b/shards/{00..01}.tar")
    places.web.requests.clear()
    opened("gs://b/shards/{00..01}.tar")
    assert [path for path, _, _ in places.web.requests] == ["/storage/v1/b/b/o"]


def test_train_and_val_are_told_apart_and_other_endings_taken_by_option(web: Server) -> None:
    write_photos(
        web.root / "labeled", ["train/a/0.png", "train/a/1.png", "train/b/2.png", "val/a/1.png", "val/b/2.png"]
    )
    write_photos(web.root / "split", ["train/a/0.png", "val/a/1.png", "val/2.png"])
    (web.root / "photos/a b/0.png").rename(web.root / "photos/a b/zero")
    (web.root / "photos/a b/text").write_text("none")
    labeled = open_labeled(f"{web.url}/labeled")
    assert labeled.classes == ["a", "b"]
    assert (len(labeled.train.targets), labeled.test.targets.tolist(), labeled.test_set) == (3, [0, 1], "val")
    for split, names in (("train", ["a/0.png"]), ("val", ["2.png", "a/1.png"])):
        source = opened(f"{web.url}/split", split=split)
        assert [*source.files.names] == names
        assert source.describe(0) == f"{web.url}/split/{split}/{names[0]}"
    assert len(opened(f"{web.url}/photos")) == 4
    choice = FileChoice(any_ending=True, exclude=("cat/*",))
    assert [*opened(f"{web.url}/photos", choice=choice).files.names] == ["a b/1.jpg", "a b/2.png", "a b/zero"]


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_a_bucket_of_many_pages_is_listed_in_the_order_of_the_names(
    depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders of any number and depth, with files beside them; pages of 100 keys, without times."""
    widths = ((), (200,), (3, 40), (2, 3, 30))[depth]
    rng = np.random.default_rng(depth)
    parts = np.stack([rng.integers(0, width, 600) for width in (*widths, 10**6)], 1).tolist()
    names = [f"{'/'.join(map(str, path[: max(1, len(path) - number % 3)]))}.png" for number, path in enumerate(parts)]
    names = sorted({*names, *(f"z{number}.png" for number in range(50))}, key=str.encode)
    requests: list[str] = []

    def list_bucket(address: str, *, delimiter: str = "") -> Iterator[dict[str, Any]]:
        prefix = address.removeprefix("s3://b/")
        found: dict[str, str] = {}
        for name in names:
            if (key := f"p/{name}").startswith(prefix):
                rest = key[len(prefix) :]
                folder = delimiter and delimiter in rest
                found[prefix + rest.partition("/")[0] + "/" if folder else key] = "folder" if folder else "file"
        keys = [*found]
        for start in range(0, max(len(keys), 1), 100):
            requests.append(address)
            page = keys[start : start + 100]
            yield {
                "Contents": [{"Key": key, "Size": len(key), "ETag": key} for key in page if found[key] == "file"],
                "CommonPrefixes": [{"Prefix": key} for key in page if found[key] == "folder"],
                "IsTruncated": start + 100 < len(keys),
            }

    monkeypatch.setattr(remote_listing, "list_bucket", list_bucket)
    monkeypatch.setattr(remote_listing, "file_system", lambda protocol: SimpleNamespace(call_s3=None))
    files = remote_files.open_remote("s3://b/p", split="train", any_ending=False)
    assert [*files.names] == names
    stamps = [files.stamp(number) for number in range(len(names))]
    assert [size for size, _ in stamps] == [len(name) + 2 for name in names]
    assert len({modified for _, modified in stamps}) == len(names)
    assert max(modified for _, modified in stamps) < 2**48
    assert len(requests) < len(names) / 2


SIGNED = "https://host/photos/?X-Amz-Signature=0123abcd&x=1"
REFUSED = {
    "s3://photos-bucket/nothing/": "holds no files",
    "s3://no-such-bucket/photos/": "not found (404, NoSuchBucket); check the address",
    "s3://photos-bucket/data/shards/{00..09}.tar": "8 of 10 archives do not exist, such as s3://photos-bucket/data/shards/02.tar",
    "s3://photos-bucket/data/none.tar": "cannot read s3://photos-bucket/data/none.tar: not found",
    "s3://photos-bucket/data/photos/a b/0.png": "is one image",
    "s3://photos-bucket/photos/*.png": "give the pattern as --include",
    "s3://photos-bucket/table.parquet": "hf:NAME",
    "nothing://host/photos/": "unknown protocol",
    "simplecache::s3://photos-bucket/data/": "name the file itself",
    "https://user:0123abcd@host/photos/": "https://...@host holds a user name or password",
    SIGNED: "https://host/...?X-Amz-Signature=... holds a signature or key",
    "https://host/list.txt?access_token=0123abcd": "(access_token)",
    "s3://photos-bucket/data/?token=0123abcd": "AWS_PROFILE",
    "WEB/none.txt": "not found (404)",
    "WEB/none/": "not found; check the address, or name a text list",
    "WEB/photos/notes/": "not found",
    "WEB/empty/": "no page of links",
    "WEB/empty.txt": "names no files",
    "WEB/page.txt": "is a web page, not a text list",
    "WEB/signed.txt": "(sig)",
    "WEB/relative.txt": "(token)",
    "WEB/hosts.txt": "one protocol and one host",
    "WEB/missing.txt": "cannot read WEB/gone.png: not found (404)",
    "WEB/cut.tar": "WEB/cut.tar is a damaged or cut tar archive",
}


@pytest.mark.parametrize("spec", REFUSED)
def test_what_cannot_be_opened_is_named_without_secrets(places: Places, spec: str) -> None:
    root, url = places.root, places.web.url
    (root / "empty").mkdir(exist_ok=True)
    (root / "empty.txt").write_text("# nothing\n")
    (root / "page.txt").write_text("\n<html>Log in</html>")
    (root / "signed.txt").write_text(f"{url}/a.png\n{url}/b.png?sig=0123abcd\n")
    (root / "relative.txt").write_text("a.png\nb.png?token=0123abcd\n")
    (root / "hosts.txt").write_text(f"{url}/photos/{NAMES[0]}\nhttps://other/a.png\n")
    (root / "missing.txt").write_text(f"photos/{NAMES[0]}\ngone.png\n")
    (root / "cut.tar").write_bytes((root / "shards/00.tar").read_bytes()[:900])
    with pytest.raises(UserError) as error:
        open_source(spec.replace("WEB", url))
    assert REFUSED[spec].replace("WEB", url) in str(error.value)
    assert "0123abcd" not in str(error.value)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("https://host/a?cat=3&page=2", None),
        ("https://host/a?keyword=cat", None),
        ("s3://bucket/a@b?versionId=3", None),
        ("https://host/a?signature=x", "signature"),
        ("https://host/a?AWSAccessKeyId=x", "AWSAccessKeyId"),
        ("https://host/a?api_key=x", "api_key"),
        ("https://host/a?Expires=1", "Expires"),
        ("https://host/a;b?q=1;sv=2;sig=x", "sig"),
        ("https://host/a#token=x", "token"),
        ("https://a%40b:c@host/", "user name"),
        ("hf:owner/name?token=x", "token"),
        ("hf:owner/name?label=fine&revision=main", None),
    ],
)
def test_only_addresses_with_secrets_are_refused(spec: str, words: str | None) -> None:
    from repre.config import RunConfig

    if words is None:
        RunConfig(data=spec)
        return
    with pytest.raises(UserError, match=words):
        RunConfig(data=("photos/", spec))


def test_missing_credentials_and_packages_are_named(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(remote_access, "_systems", {})
        patch.delenv("AWS_ACCESS_KEY_ID")
        with pytest.raises(UserError, match=r"no credentials; .*AWS_PROFILE.*~/\.aws/credentials.*FSSPEC_S3_ANON"):
            open_source("s3://photos-bucket/data/photos/")
    places.web.faults["/photos/"] = [servers.status(401)]
    with pytest.raises(UserError, match=r"access denied \(401\).*~/\.netrc"):
        open_source(f"{places.web.url}/photos/")
    for protocol, module in (("s3", "s3fs"), ("gs", "gcsfs"), ("https", "aiohttp"), ("abfs", "adlfs")):
        with monkeypatch.context() as patch:
            patch.setattr(remote_access, "_systems", {})
            patch.setitem(sys.modules, module, None)
            with pytest.raises(UserError, match=rf"{protocol}:// needs .*{module}"):
                open_source(f"{protocol}://place/photos/")


def test_a_server_without_ranges_serves_files_but_no_archives(web: Server) -> None:
    web.ranges = False
    (web.root / "a.tar").write_bytes(b"x" * 2000)
    (web.root / "list.txt").write_text("\n".join(f"photos/{name}" for name in NAMES))
    assert len(opened(f"{web.url}/list.txt")) == 5
    with pytest.raises(UserError, match=r"/a\.tar: the server sends only whole files"):
        open_source(f"{web.url}/a.tar")


def test_netrc_is_sent_and_a_listing_survives_faults(web: Server, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text(f"machine 127.0.0.1 login {KEY} password {SECRET}")
    web.faults = {"/photos/": [servers.status(503)], "/photos/a b/": [servers.reset, servers.status(502)]}
    source = opened(f"{web.url}/photos")
    assert len(source) == 5
    source.load(0)
    assert all(authorization.startswith("Basic ") for _, _, authorization in web.requests)
