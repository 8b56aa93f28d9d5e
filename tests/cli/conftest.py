"""`repre` called in this process, small images, and a finished run."""

import contextlib
import io
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from repre.cli.main import main
from tests.cli.tiny_command import TINY

Repre = Callable[..., tuple[int, str, str]]


def call(*arguments: object) -> tuple[int, str, str]:
    """Runs `repre ARGUMENTS`; returns exit code, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as exit:
            code = int(exit.code or 0)
    return code, out.getvalue(), err.getvalue()


@pytest.fixture
def repre() -> Repre:
    return call


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 16 images."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    folder.mkdir()
    for index in range(16):
        image = Image.radial_gradient("L").rotate(10 * index).resize((48, 40)).convert("RGB")
        image.save(folder / f"{index}.jpg")
    return folder


@pytest.fixture(scope="session")
def finished_run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that tests may read but not change."""
    out = tmp_path_factory.mktemp("runs") / "photos"
    code, _, err = call("pretrain", "quickstart", "--data", photos, "--out", out, *TINY)
    assert code == 0, err
    return out


@pytest.fixture
def run_copy(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may change."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))
