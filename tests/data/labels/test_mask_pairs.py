"""The mask of every image: same names, suffixes, one folder or two, and what is ambiguous or missing."""

from pathlib import Path

import numpy as np
import pytest

from repre.data.labels.mask_pairs import find_pairs, find_pairs_in_one, image_paths
from repre.errors import UserError
from tests.data.labels.label_files import save_image

MASK = np.zeros((20, 40), np.uint8)


def save(folder: Path, *names: str) -> Path:
    for name in names:
        save_image(folder / name, MASK if name.endswith(".png") else None)
    return folder


def found(images: Path, masks: Path, **settings: object) -> dict[str, str]:
    pairs = find_pairs(image_paths(images), masks, **settings)  # type: ignore[arg-type]
    return {path.relative_to(images).as_posix(): mask.relative_to(masks).as_posix() for path, mask in pairs.pairs}


@pytest.mark.parametrize("suffix", ["", "_mask", "_seg", "_L", "_labelIds", "_gt", "-mask", ".mask"])
def test_one_suffix_for_all(suffix: str, tmp_path: Path) -> None:
    images = save(tmp_path / "im", "a.jpg", "a_1.jpg", "sub/b.jpg")
    masks = save(tmp_path / "m", *(f"{stem}{suffix}.png" for stem in ("a", "a_1", "sub/b")))
    assert found(images, masks) == {f"{stem}.jpg": f"{stem}{suffix}.png" for stem in ("a", "a_1", "sub/b")}


def test_the_names_of_cityscapes(tmp_path: Path) -> None:
    images = save(tmp_path / "im", "aachen/aachen_0_1_leftImg8bit.png", "ulm/ulm_3_9_leftImg8bit.png")
    masks = tmp_path / "gt"
    for kind in ("color", "labelIds", "instanceIds"):
        save(masks, f"aachen/aachen_0_1_gtFine_{kind}.png", f"ulm/ulm_3_9_gtFine_{kind}.png")
    with pytest.raises(UserError, match=r"several masks in .*gt: \*_gtFine_color.png, .*pairs:IMAGES,.*gt/\*_gtFine"):
        found(images, masks)
    assert (
        found(images, masks, suffix="_gtFine_labelIds")["ulm/ulm_3_9_leftImg8bit.png"]
        == "ulm/ulm_3_9_gtFine_labelIds.png"
    )


@pytest.mark.parametrize(
    "names", ["a.jpg a_mask.png b.jpg b_mask.png", "a.png a_gt.png b.png b_gt.png", "a.jpg a.png b.jpg b.png"]
)
def test_one_folder_with_both(names: str, tmp_path: Path) -> None:
    save(tmp_path, *names.split())
    pairs = find_pairs_in_one(tmp_path).pairs
    assert [(path.name, mask.name) for path, mask in pairs] == list(zip(names.split()[::2], names.split()[1::2]))


def test_images_without_a_mask_are_refused_or_left_out(tmp_path: Path) -> None:
    save(tmp_path, "a.jpg", "a_mask.png", "b.jpg", "c.jpg", "c_mask.png")
    with pytest.raises(
        UserError, match=r"1 of 3 images have no mask; the first is .*b.jpg.*b_mask.png.*--skip-unlabeled"
    ):
        find_pairs_in_one(tmp_path)
    skipped = find_pairs_in_one(tmp_path, skip_unlabeled=True)
    assert [path.name for path, _ in skipped.pairs] == ["a.jpg", "c.jpg"]
    assert [path.name for path in skipped.unlabeled] == ["b.jpg"]
    images, masks = save(tmp_path / "im", "a.jpg", "b.jpg"), save(tmp_path / "m", "b.png")
    with pytest.raises(UserError, match=r"1 of 2 images have no mask"):
        found(images, masks)
    assert found(images, masks, skip_unlabeled=True) == {"b.jpg": "b.png"}
    with pytest.raises(UserError, match=r"2 of 2 images have no mask"):  # nothing is left to skip to
        found(images, save(tmp_path / "none", "x.png"), skip_unlabeled=True)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("a.jpg b.jpg", "2 of 2 images have no mask|holds no masks next to"),
        ("a.png b.png", "holds no masks next to its images"),
        ("a.jpg a.bmp a_mask.png", "would share one mask"),
        ("a.jpg a_x.png a_y.png", r"several masks in .*: \*_x.png, \*_y.png"),
    ],
)
def test_a_folder_that_is_not_clear(names: str, words: str, tmp_path: Path) -> None:
    save(tmp_path, *names.split())
    with pytest.raises(UserError, match=words):
        find_pairs_in_one(tmp_path)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder of masks"):
        found(save(tmp_path / "im", "a.jpg"), tmp_path / "m")
    with pytest.raises(UserError, match=r"there is no folder .*imm; did you mean 'im'"):
        find_pairs_in_one(tmp_path / "imm")
