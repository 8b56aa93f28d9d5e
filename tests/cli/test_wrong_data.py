"""Data that are not what the user thinks: one message that says what was found, no traceback, and no folder is claimed."""

import json
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import Repre
from tests.cli.tiny_command import TINY


@pytest.fixture(scope="module")
def odd(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that is no data."""
    root = tmp_path_factory.mktemp("odd")
    with tarfile.open(root / "x.tar.gz", "w:gz") as tar:
        tar.add(photos, "photos")
    with zipfile.ZipFile(root / "no-images.zip", "w") as archive:
        archive.writestr("a.txt", "x")
    (root / "d.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(3000))
    (root / "hf.parquet").write_bytes(b"PAR1" + bytes(100))
    (root / "x.pdf").write_bytes(b"%PDF-1.4\n1 0 obj\n" * 40)
    (root / "labels.csv").write_text("path,label\na.png,1\n")
    (root / "table.txt").write_text("label,path\n1,a.png\n")
    (root / "run.yaml").write_text("data: photos\nepochs: 3\n")
    (root / "coco.json").write_text(json.dumps({"images": []}))
    (root / "page.txt").write_text("<html></html>")
    (root / "prose.txt").write_text("These are my photos.\n")
    Image.new("RGB", (8, 8)).save(root / "image.txt", "PNG")
    (root / "folders/one/two").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "texts").mkdir()
    (root / "texts/a.heic").write_bytes(b"x")
    os.symlink("nowhere", root / "broken")
    os.symlink("itself", root / "itself")
    return root


MESSAGES = {
    "x.tar.gz": "compressed as a whole",
    "no-images.zip": "holds no images",
    "d.h5": "neither a text list nor a supported archive",
    "hf.parquet": "cannot be read as a data set",
    "x.pdf": "is a PDF document, not a list of images",
    "labels.csv": "is a table (path,label), not a list of images",
    "table.txt": "is a table (label,path), not a list of images",
    "run.yaml": "is YAML, not a list of images; name the folder",
    "coco.json": "is JSON, not a list of images",
    "page.txt": "is a web page",
    "prose.txt": "1 of 1 files of the list",
    "image.txt": "neither a text list nor a supported archive",
    "folders": "an empty folder and has no files in its folders",
    "empty": "is an empty folder; name one that holds images",
    "texts": "only files with other endings (1 of .heic)",
    "broken": "is a link to a file that does not exist",
    "itself": "is a link to itself",
    "x" * 300: "is too long for a file name",
    "empty/" + "y" * 300 + "/z": "is too long for a file name",
    "nowhere": "there is no folder, list or archive",
    "no\x1b[31mpe": "\\x1b[31mpe",
    "no\nwhere": "no\\nwhere",
}


@pytest.mark.parametrize("name", MESSAGES, ids=[repr(name)[1:20] for name in MESSAGES])
def test_data_that_are_none_get_one_message(repre: Repre, odd: Path, tmp_path: Path, name: str) -> None:
    for command in (
        ("pretrain", "--data", odd / name, "--out", tmp_path / "run", *TINY),
        ("data", "check", odd / name),
    ):
        code, out, err = repre(*command)
        assert code == 2, out
        assert MESSAGES[name] in err
        assert "Traceback" not in err
        assert "\x1b" not in err
        assert len(err) < 1000
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("address", ["s3://bucket/run", "https://host/run", "gs://bucket/run"])
def test_results_are_not_written_to_addresses(
    repre: Repre, photos: Path, tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    commands: list[tuple[object, ...]] = [
        ("pretrain", "--data", photos, *TINY),
        ("data", "shard", photos),
        ("data", "scenes"),
        ("report", photos),
        ("embed", "--encoder", "random:vit_tiny_patch16_224", "--data", photos),
    ]
    for command in commands:
        code, _, err = repre(*command, "--out", address)
        assert code == 2
        assert "is an address, but results are written to a disk of this machine" in err
    assert not [*tmp_path.iterdir()]


def test_floats_of_another_range_are_refused_and_the_advice_works(repre: Repre, tmp_path: Path) -> None:
    data, out = tmp_path / "floats", tmp_path / "run"
    data.mkdir()
    for number in range(16):
        values = np.random.default_rng(number).random((16, 16, 3), np.float32) * 255
        np.save(data / f"{number}.npy", values)
    command = ("pretrain", "quickstart", "--data", data, "--out", out, *TINY)
    code, _, err = repre(*command)
    assert code == 2
    assert "floats of 0" in err
    assert "give --views.value-range 0 255. " in err
    assert not out.exists()
    code, printed, _ = repre("data", "check", data, "--workers", 0)
    assert code == 1
    assert "give --views.value-range 0 255. " in printed
    code, _, err = repre(
        "embed", "--encoder", "random:vit_tiny_patch16_224[image_size=32]", "--data", data, "--out", out / "f.npz"
    )
    assert code == 2
    assert "give --value-range 0 255. " in err
    code, printed, err = repre(*command, "--views.value-range", 0, 255)
    assert code == 0, err
    assert "files: 16 .npy\n" in printed


def test_masks_beside_photos_are_left_out_of_a_run_and_its_shards(repre: Repre, tmp_path: Path) -> None:
    scenes = tmp_path / "scenes"
    assert repre("data", "scenes", "--out", scenes, "--train", 16, "--val", 2, "--size", 32)[0] == 0
    code, printed, err = repre("pretrain", "quickstart", "--data", scenes, "--out", tmp_path / "run", *TINY)
    assert code == 0, err
    assert "files: 16 .png; other files: 1 .json, 1 .txt" in printed.replace("1 .txt, 1 .json", "1 .json, 1 .txt")
    assert "16 masks/*; --masks take uses them as images too" in printed
    assert f"16 images of {scenes}" in printed
    code, printed, _ = repre("data", "check", scenes, "--workers", 0)
    assert code == 0
    assert "16 masks/*; --masks take" in printed
    assert "16 images, 0 unreadable" in printed
    assert "32 images, 0 unreadable" in repre("data", "check", scenes, "--workers", 0, "--masks", "take")[1]
    code, printed, _ = repre("data", "shard", scenes, "--out", tmp_path / "shards", "--workers", 0)
    assert "16 images in" in printed
    assert "16 masks/*; --masks take" in printed


def test_check_names_gray_files_and_those_like_masks(repre: Repre, photos: Path, tmp_path: Path) -> None:
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"photo{number}.png")
        flat = Image.fromarray(
            np.kron(np.arange(4, dtype=np.uint8).reshape(2, 2), np.ones((10, 10), np.uint8))
        ).convert("P")
        flat.save(tmp_path / f"x{number}.png")
    code, printed, _ = repre("data", "check", tmp_path, "--workers", 0)
    assert code == 0
    assert "3 channels of uint8 (6); 3 of them are gray" in printed
    assert "3 images of few flat colors, like masks or drawings, such as" in printed
    assert "gray" not in repre("data", "check", photos, "--workers", 0)[1], "all are"


def test_channels_are_said_by_pretrain_as_by_check(repre: Repre, photos: Path, tmp_path: Path) -> None:
    reason = "3, not of 6 channels"
    assert reason in repre("data", "check", photos, "--channels", 6, "--workers", 0)[1]
    code, _, err = repre("pretrain", "--data", photos, "--out", tmp_path / "run", *TINY, "--encoder.channels", 6)
    assert code == 2
    assert reason in err
    assert "--encoder.channels" in err


def test_a_shell_may_expand_a_pattern(repre: Repre, photos: Path, tmp_path: Path) -> None:
    names = sorted(str(path) for path in photos.iterdir())
    code, printed, err = repre("pretrain", "quickstart", "--data", *names, "--out", tmp_path / "run", *TINY)
    assert code == 0, err
    assert f"16 images of {', '.join(names[:7])} and 9 more" in printed
    assert "files: 16 .jpg\n" in printed


def test_a_folder_that_may_not_be_entered_is_named(repre: Repre, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    (closed / "photos").mkdir(parents=True)
    closed.chmod(0)
    try:
        if os.access(closed, os.X_OK):
            pytest.skip("this user may enter any folder")
        code, _, err = repre("pretrain", "--data", closed / "photos", "--out", tmp_path / "run", *TINY)
        assert code == 2
        assert f"no permission to read {closed / 'photos'}: you may not enter the folder {closed}" in err
    finally:
        closed.chmod(0o700)
