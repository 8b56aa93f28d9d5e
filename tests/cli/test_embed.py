"""`repre embed`."""

from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Repre

RUNTIME = ("--runtime.workers", 0, "--runtime.device", "cpu")


def test_features_of_a_folder(repre: Repre, finished_run: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "features.npz"
    code, printed, err = repre("embed", "--encoder", finished_run, "--data", photos, "--out", out, "--half", *RUNTIME)
    assert code == 0, err
    loaded, done = printed.splitlines()
    assert loaded.startswith(
        f"encoder {finished_run}: the student's weights, timm's names; 30 tensors loaded, 0 missing, 0"
    )
    assert loaded.endswith("mean 0.485 0.456 0.406 and std 0.229 0.224 0.225 (of the encoder's config.json)")
    assert done == f"16 images embedded; written to {out}"
    assert np.load(out)["features"].shape == (16, 32)
    assert np.load(out)["features"].dtype == np.float16


def test_unreadable_files_are_pointed_at(repre: Repre, finished_run: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed/good.jpg").write_bytes((photos / "1.jpg").read_bytes())
    (tmp_path / "mixed/bad.jpg").write_bytes(b"no image")
    out = tmp_path / "features.npz"
    code, printed, _ = repre("embed", "--run", finished_run, "--data", tmp_path / "mixed", "--out", out, *RUNTIME)
    assert code == 0
    assert "1 images embedded" in printed
    assert f"some files could not be read; see {out}.unreadable.txt" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--run", "x_y_z", "--data", "a", "--out", "b.npz"), "no model"),
        (("--run", "a", "--data", "a", "--out", "b.txt"), ".npz or "),
        (("--run", "a", "--data", "a", "--kind", "all"), "pyramid"),
        (("--run", "a", "--data", "a", "--features", "norm"), "normed"),
        (("--run", "a", "--data", "a", "--runtime.batch", "0"), "runtime.batch must be at least 1"),
        (("--run", "a"), "--data"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], message: str, repre: Repre) -> None:
    code, out, err = repre("embed", *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_a_map_is_written_beside_the_features(repre: Repre, finished_run: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "features.npz"
    arguments = ("--map", "pca", "--map-clusters", 2, "--map-thumbnails", 3, *RUNTIME)
    code, printed, err = repre("embed", "--encoder", finished_run, "--data", photos, "--out", out, *arguments)
    assert code == 0, err
    assert f"map: {tmp_path}/features.map.csv and {tmp_path}/features.map.html" in printed
    assert "mapped by PCA: 2 clusters" in printed
    assert (tmp_path / "features.map.html").read_text(encoding="utf-8").count("data:image/jpeg") == 3
