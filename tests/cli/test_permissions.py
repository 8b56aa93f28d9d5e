"""Whatever a command writes, others may read if the user's umask allows it, and not if it does not."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import Repre
from tests.cli.tiny_command import TINY


@pytest.fixture(params=[0o022, 0o077], ids=["022", "077"])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    old = os.umask(request.param)
    yield request.param
    os.umask(old)


@pytest.mark.slow  # every command that writes, twice: a whole run among them
def test_all_that_commands_write_follows_the_umask(
    umask: int, repre: Repre, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "here"
    home.mkdir()
    monkeypatch.chdir(home)
    monkeypatch.setenv("REPRE_CACHE", str(home / "cache"))
    labeled = tmp_path / "labeled"
    for index in range(8):
        folder = labeled / ("train", "val")[index % 2] / f"class-{index // 4}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    cpu = ("--runtime.device", "cpu", "--runtime.workers", "0")
    commands = [
        ("pretrain", "quickstart", "--data", photos, "--out", "run", *TINY),
        ("eval", "linear", "--encoder", "run", "--data", labeled, "--steps", "2", *cpu),
        ("embed", "--encoder", "run", "--data", photos, "--out", "features.npz", "--map", "pca", *cpu),
        ("export", "--encoder", "run", "--out", "exported"),
        ("export", "--encoder", "run", "--to", "torch-export", "--out", "program"),
        ("report", "run"),
        ("reconstruct", "--run", "run", "--out", "rebuilt.png", photos / "0.jpg"),
        ("data", "scenes", "--out", "scenes", "--train", "1", "--val", "1", "--size", "32"),
        ("data", "shard", photos, "--out", "shards", "--workers", "0"),
    ]
    for command in commands:
        code, _, error = repre(*command)
        assert code == 0, (command, error)
    results = sorted(Path("run/evaluations").glob("*.json"))
    code, _, error = repre("predict", "--model", results[0], photos, "--out", "predicted", *cpu)
    assert code == 0, error
    written = [home, *home.rglob("*")]
    assert len(written) > 60
    wrong = {
        str(path.relative_to(home)): oct(stat.S_IMODE(path.lstat().st_mode))
        for path in written
        if not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) != (0o777 if path.is_dir() else 0o666) & ~umask
    }
    assert not wrong
