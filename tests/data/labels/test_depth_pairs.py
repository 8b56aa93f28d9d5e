"""Pairs of images and depth maps: formats, scales, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from repre.data.labels.depth_pairs import DepthPairs, check_scale, open_depth, read_depth
from repre.data.labels.problems import Problems
from repre.errors import UserError

METERS = np.array([[1.0, 2.5, 0.0], [4.0, np.nan, 8.0]], np.float32)


def write(folder: Path, name: str, depth: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if name.endswith(".npy"):
        np.save(folder / name, depth)
    else:
        Image.fromarray(depth).save(folder / name)


def write_images(folder: Path, *, count: int = 5, size: tuple[int, int] = (2, 3)) -> None:
    for index in range(count):
        write(folder, f"{index}.png" if folder.name == "images" else f"{index}.jpg", np.zeros((*size, 3), np.uint8))


def source(spec: str, **more: Any) -> DepthPairs:
    return open_depth(
        spec, **({"split": "train", "channels": 3, "scale": 0.001, "max_depth": None, "whole": True} | more)
    )


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("x.png", (1000 * np.nan_to_num(METERS)).astype(np.uint16)),
        ("x.npy", METERS),
        ("x.npy", METERS.astype(np.float64)[None]),
        ("x.npy", METERS[..., None]),
        ("x.npy", (1000 * np.nan_to_num(METERS)).astype(np.int32)),
        ("x.npy", np.where(np.isnan(METERS), -np.inf, METERS)),
    ],
)
def test_every_format_gives_meters_and_zero_for_unknown(name: str, values: np.ndarray, tmp_path: Path) -> None:
    write(tmp_path, name, values)
    np.testing.assert_allclose(read_depth(tmp_path / name, scale=0.001), np.nan_to_num(METERS), rtol=1e-6)


def test_pairs_of_two_folders_of_png_and_of_numpy_files(tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    for index in range(5):
        write(tmp_path / "png", f"{index}_depth.png", np.full((2, 3), 1000 * (index + 1), np.uint16))
        write(tmp_path / "npy", f"{index}.npy", np.full((2, 3), index + 1.0, np.float32))
    for folder in ("png", "npy", "png/*_depth.png", "npy/*.npy"):
        pairs = source(f"pairs:{tmp_path}/images,{tmp_path}/{folder}")
        assert [float(pairs.load(index)[1].mean()) for index in range(5)] == pytest.approx([1, 2, 3, 4, 5])
        assert check_scale(pairs).startswith("depth from 1 to 5 m")


@pytest.mark.parametrize("name", ["{}_depth.png", "{}.png", "{}.npy", "{}_depth.npy"])
def test_pairs_in_one_folder(name: str, tmp_path: Path) -> None:
    write_images(tmp_path / "all")
    for index in range(5):
        depth = np.full((2, 3), index + 1.0, np.float32)
        write(tmp_path / "all", name.format(index), depth if name.endswith("npy") else (1000 * depth).astype(np.uint16))
    pairs = source(f"pairs:{tmp_path}/all")
    assert [float(pairs.load(index)[1].mean()) for index in range(5)] == pytest.approx([1, 2, 3, 4, 5])


def test_a_fifth_is_held_out_unless_there_are_splits(tmp_path: Path) -> None:
    for folder in ("", "train", "val"):
        write_images(tmp_path / folder / "images" if not folder else tmp_path / "images" / folder, count=5)
        for index in range(5):
            write(tmp_path / "depth" / folder, f"{index}.npy", np.ones((2, 3), np.float32))
    spec = f"pairs:{tmp_path}/images,{tmp_path}/depth"
    assert len(source(spec, split="val", whole=False)) == 5
    for split in ("train", "val"):
        for kind in ("images", "depth"):
            (tmp_path / kind / split).rename(tmp_path / f"{kind}-{split}")
    held, kept = source(spec, split="val", whole=False), source(spec, whole=False)
    assert (len(held), len(kept)) == (1, 4)
    assert held.pairs[0] not in kept.pairs
    assert len(source(f"pairs:{tmp_path}/images-{{split}},{tmp_path}/depth-{{split}}", split="val", whole=False)) == 5


def test_far_pixels_are_unknown_and_change_the_fingerprint(tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    for index in range(5):
        write(tmp_path / "depth", f"{index}.npy", METERS)
    spec = f"pairs:{tmp_path}/images,{tmp_path}/depth"
    near = source(spec, max_depth=3.0)
    np.testing.assert_array_equal(near.load(0)[1], [[1, 2.5, 0], [0, 0, 0]])
    assert len({near.fingerprint(), source(spec).fingerprint(), source(spec, scale=1.0).fingerprint()}) == 3


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("0.png", np.zeros((2, 3), np.uint8), "PNG of mode L, and depth needs 16 bits.*--depth-scale"),
        ("0.png", np.zeros((2, 3, 3), np.uint8), "PNG of mode RGB"),
        (
            "0.npy",
            np.zeros((2, 3, 3), np.float32),
            "holds float32 of 2 x 3 x 3; a depth map is an array of height x width",
        ),
        ("0.npy", np.zeros((2, 3), np.complex64), "holds complex64"),
        ("0.npy", np.ones((3, 2), np.float32), "has 3 x 2 pixels, but its image .* has 2 x 3; save the depth map"),
    ],
)
def test_files_that_are_no_depth_maps_are_refused(name: str, values: np.ndarray, message: str, tmp_path: Path) -> None:
    write_images(tmp_path / "images", count=1)
    write(tmp_path / "depth", name, values)
    with pytest.raises(UserError, match=message):
        source(f"pairs:{tmp_path}/images,{tmp_path}/depth").load(0)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    write_images(tmp_path / "images", count=1)
    for name in ("0.npy", "0.png"):
        folder = tmp_path / name[2:]
        folder.mkdir()
        (folder / name).write_bytes(b"nothing")
        with pytest.raises(UserError, match="cannot be read"):
            source(f"pairs:{tmp_path}/images,{folder}").load(0)


@pytest.mark.parametrize(
    ("values", "scale", "message"),
    [
        (
            np.full((2, 3), 4000, np.uint16),
            1.0,
            "from 4e.03 to 4e.03 m .*integers at --depth-scale 1.*set --depth-scale",
        ),
        (np.full((2, 3), 4, np.uint16), 0.001, "half of it beyond 0.004 m; set --depth-scale"),
        (
            np.zeros((2, 3), np.uint16),
            0.001,
            r"no depth above 0 in \d of \d depth maps.*in the order pairs:IMAGES,DEPTHS",
        ),
    ],
)
def test_a_wrong_scale_is_told_with_what_was_read(
    values: np.ndarray, scale: float, message: str, tmp_path: Path
) -> None:
    write_images(tmp_path / "images", count=1)
    write(tmp_path / "depth", "0.png", values)
    with pytest.raises(UserError, match=message):
        check_scale(source(f"pairs:{tmp_path}/images,{tmp_path}/depth", scale=scale))


def test_a_range_of_no_real_scene_can_be_confirmed(tmp_path: Path) -> None:
    write_images(tmp_path / "images", count=1)
    write(tmp_path / "depth", "0.png", np.full((2, 3), 4, np.uint16))
    pairs = source(f"pairs:{tmp_path}/images,{tmp_path}/depth")
    with pytest.raises(UserError, match="--accept-labels"):
        check_scale(pairs)
    assert check_scale(pairs, Problems(accept=True)).startswith("depth from 0.004 to 0.004 m")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["images/0.png"], "there is no folder of depth maps"),
        (["images/0.png", "depth/0.png"], None),
        (["images/0.png", "depth/0.tif"], "there is 0.tif; depth maps are 16-bit PNG or .npy"),
    ],
)
def test_messages_speak_of_depth_maps(names: list[str], message: str | None, tmp_path: Path) -> None:
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((2, 3), 3000, np.uint16)).save(path)
    spec = f"pairs:{tmp_path}/images,{tmp_path}/depth"
    if message is None:
        assert len(source(spec)) == 1
        return
    with pytest.raises(UserError, match=message):
        source(spec)
    with pytest.raises(UserError, match=r"holds no depth maps next to its images; name them like x_depth\.png"):
        source(f"pairs:{tmp_path}/images")


@pytest.mark.parametrize("spec", ["", "scenes", "voc:x", "pairs:"])
def test_only_pairs_have_depth(spec: str) -> None:
    with pytest.raises(UserError, match="write pairs:IMAGES,DEPTHS"):
        source(spec)


def test_a_missing_depth_map_is_told(tmp_path: Path) -> None:
    write_images(tmp_path / "images", count=2)
    write(tmp_path / "depth", "0.npy", METERS)
    spec = f"pairs:{tmp_path}/images,{tmp_path}/depth"
    with pytest.raises(UserError, match=r"1 of 2 images have no depth map; .*1\.npy\. Add the depth maps"):
        source(spec)
    pairs = source(spec, skip_unlabeled=True)
    assert pairs.notes == ["1 of 2 images have no depth map and are left out"]
