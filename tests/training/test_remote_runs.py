"""Runs over a bucket and a web server: stopped and resumed, they are bit-equal to a run over the folder."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from repre.config import RunConfig
from repre.data.io import remote_access
from repre.data.loading.loader import LoaderConfig
from repre.training.loop import train
from repre.utils.signals import Interrupted
from tests.data.io import remote_servers as servers
from tests.data.io.remote_servers import KEY, SECRET, Server
from tests.training.test_loop import assert_equal, config, stop_at, weights

COUNT = 24


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        (folder / str(number % 2)).mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(folder / f"{number % 2}/{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def web(photos: Path) -> Iterator[Server]:
    with servers.web_server(photos) as web, servers.s3_server():
        servers.upload(photos, "photos")
        yield web


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short waits, a cache of its own, and credentials for the web server."""
    monkeypatch.setattr(remote_access, "FIRST_WAIT", 0.002)
    monkeypatch.setenv("REPRE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").write_text(f"machine 127.0.0.1 login {KEY} password {SECRET}")


def run_config(out: Path, data: str, *, workers: int = 0, **loader: object) -> RunConfig:
    made = config(out, data=data, epochs=2, loader=LoaderConfig(cache="off", **loader))  # type: ignore[arg-type]
    return replace(made, runtime=replace(made.runtime, workers=workers, monitors=False))


@pytest.fixture(scope="module")
def straight(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(run_config(tmp_path_factory.mktemp("straight") / "run", str(photos)))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("place", ["s3", "web"])
def test_a_remote_run_is_bit_equal_to_that_of_the_folder(
    tmp_path: Path, web: Server, straight: Path, place: str, workers: int
) -> None:
    web.faults = {"/0/02.png": [servers.status(503)] * 2, "/1/05.png": [servers.cut], "/1/07.png": [servers.reset]}
    data = "s3://photos-bucket/photos/" if place == "s3" else web.url
    made = run_config(tmp_path / "run", data, workers=workers, remote_cache_gib=0 if workers else 1)
    with pytest.raises(Interrupted):
        train(made, probe=stop_at(3))
    train(made)
    assert_equal(weights(straight), weights(tmp_path / "run"))
    assert not (tmp_path / "run/unreadable.txt").exists()
    assert_no_secrets(tmp_path / "run")


@pytest.mark.slow
def test_a_file_that_stays_out_of_reach_is_listed_with_the_reason(tmp_path: Path, web: Server) -> None:
    web.faults = {"/0/02.png": [servers.status(503)] * 1000, "/1/05.png": [servers.status(403)] * 1000}
    made = run_config(tmp_path / "run", web.url, workers=2, max_unreadable=0.5)
    train(made)
    lines = (tmp_path / "run/unreadable.txt").read_text().splitlines()
    assert len(lines) == 2
    for line, words in zip(sorted(lines), (("0/02.png", "503 (6 attempts)"), ("1/05.png", "access denied (403)"))):
        assert all(word in line for word in (web.url, *words))
    assert_no_secrets(tmp_path / "run")


def assert_no_secrets(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert SECRET.encode() not in content, file
            assert KEY.encode() not in content, file
