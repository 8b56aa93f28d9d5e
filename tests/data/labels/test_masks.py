"""Every kind of data with masks: what is read, and that what is wrong is said by file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from repre.data.labels.mask_files import VOC_CLASSES
from repre.data.labels.masks import IGNORE, open_masks
from repre.data.scenes import CLASSES, ScenesConfig, draw_scene
from repre.errors import UserError


def save(path: Path, values: np.ndarray, *, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(values.astype(np.uint8))
    if palette:
        picture = picture.convert("P") if values.ndim == 3 else picture
        picture.putpalette([200, 30, 7] * 256)
    picture.save(path)


def picture(height: int = 6, width: int = 8, value: int = 90) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def mask(*labels: int, height: int = 6, width: int = 8) -> np.ndarray:
    return np.resize(np.array(labels, np.uint8), (height, width))


def pairs(root: Path, count: int = 5, labels: tuple[int, ...] = (0, 1, 2, 255)) -> str:
    for number in range(count):
        save(root / "images" / f"{number}.png", picture(value=10 * number))
        save(root / "masks" / f"{number}.png", mask(*labels))
    return f"pairs:{root / 'images'},{root / 'masks'}"


def test_scenes_have_their_own_masks() -> None:
    train, val = (open_masks("scenes:8:32", split=split) for split in ("train", "val"))
    assert (len(train), len(val)) == (8, 32)
    assert len(open_masks("scenes:400:32", split="val")) == 100
    assert train.classes == ["background", *CLASSES]
    scene = draw_scene(ScenesConfig(size=32), split="val", index=3)
    image, labels = val.load(3)
    assert (image == scene.image).all()
    assert (labels == scene.semantic).all()
    assert train.fingerprint() != val.fingerprint()


def test_a_declared_range_of_pixels(tmp_path: Path) -> None:
    spec = pairs(tmp_path, count=10)
    for split in ("train", "val"):
        plain, ranged = open_masks(spec, split=split), open_masks(spec, split=split, value_range=(-10.0, 300.0))
        assert (len(ranged), ranged.classes, ranged.describe(0)) == (len(plain), plain.classes, plain.describe(0))
        (image, labels), (found, same) = plain.load(0), ranged.load(0)
        assert found.dtype == np.float32
        assert np.allclose(found, (image.astype(float) + 10) / 310, atol=1e-6)
        assert (labels == same).all()
        assert plain.fingerprint() != ranged.fingerprint()
    narrow = open_masks(spec, value_range=(0.0, 1.0)).load(0)[0]
    assert narrow.max() <= 1  # what lies beyond is cut


def test_pairs_hold_out_a_fixed_share(tmp_path: Path) -> None:
    spec = pairs(tmp_path, count=10)
    train, val = (open_masks(spec, split=split) for split in ("train", "val"))
    names = [{source.describe(i) for i in range(len(source))} for source in (train, val)]
    assert [len(part) for part in names] == [8, 2]
    assert not names[0] & names[1]
    assert names[1] == {val.describe(i) for i in range(2)}
    assert train.classes == ["0", "1", "2"]
    image, labels = train.load(0)
    assert image.shape == (6, 8, 3)
    assert labels.dtype == np.uint8
    assert (labels == mask(0, 1, 2, 255)).all()


def test_pairs_with_splits_names_and_palette(tmp_path: Path) -> None:
    for split, value in (("train", 1), ("val", 2)):
        save(tmp_path / "images" / split / "a.jpg", picture())
        save(tmp_path / "masks" / split / "a.png", mask(0, value), palette=True)
        save(tmp_path / split / "im" / "b.png", picture())
        save(tmp_path / split / "lab" / "b.png", mask(value))
    (tmp_path / "classes.txt").write_text("sky\nsea\nsand\n\n")
    inside = f"pairs:{tmp_path}/images,{tmp_path}/masks"
    beside = f"pairs:{tmp_path}/{{split}}/im,{tmp_path}/{{split}}/lab"
    for spec, labels in ((inside, {0, 2}), (beside, {2})):
        val = open_masks(spec, split="val")
        assert len(val) == 1
        assert val.classes == ["sky", "sea", "sand"]
        assert set(np.unique(val.load(0)[1]).tolist()) == labels


def test_fingerprint_changes_with_a_file(tmp_path: Path) -> None:
    spec = pairs(tmp_path)
    before = open_masks(spec).fingerprint()
    assert open_masks(spec).fingerprint() == before
    for number in range(5):
        save(tmp_path / "masks" / f"{number}.png", mask(2, 1, 1, 0, 0, 1, 0))
    assert open_masks(spec).fingerprint() != before


def test_ade20k_ignores_zero_and_counts_from_one(tmp_path: Path) -> None:
    root = tmp_path / "ADEChallengeData2016"
    for part in ("training", "validation"):
        save(root / "images" / part / "x.jpg", picture())
        save(root / "annotations" / part / "x.png", mask(0, 1, 150))
    for place in (tmp_path, root):
        source = open_masks(f"ade20k:{place}", split="val")
        assert len(source.classes) == 150
        assert set(np.unique(source.load(0)[1]).tolist()) == {IGNORE, 0, 149}
    rows = [f"{i}\t0.1\t2\t3\t0\tthing {i}, other word" for i in range(1, 151)]
    (root / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tStuff\tName\n" + "\n".join(rows))
    assert open_masks(f"ade20k:{root}").classes[:2] == ["thing 1", "thing 2"]


def test_voc_reads_its_lists(tmp_path: Path) -> None:
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for stem in ("a", "b", "unlisted"):
        save(root / "JPEGImages" / f"{stem}.jpg", picture())
    for stem in ("a", "b"):
        save(root / "SegmentationClass" / f"{stem}.png", mask(0, 20, 255), palette=True)
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\n")
    (lists / "val.txt").write_text("b\n")
    source = open_masks(f"voc:{tmp_path}", split="val")
    assert source.classes == VOC_CLASSES
    assert len(VOC_CLASSES) == 21
    assert source.describe(0).endswith("b.jpg")
    assert set(np.unique(source.load(0)[1]).tolist()) == {0, 20, IGNORE}
    (lists / "val.txt").write_text("b\nlost\n")
    with pytest.raises(UserError, match=r"1 of 2 images.*lost\.jpg"):
        open_masks(f"voc:{tmp_path}", split="val")


def drop_mask(root: Path) -> None:
    (root / "masks" / "3.png").unlink()


def jpeg_mask(root: Path) -> None:
    drop_mask(root)
    save(root / "masks" / "3.jpg", mask(1))


def colored_mask(root: Path) -> None:
    save(root / "masks" / "3.png", picture())


def other_size(root: Path) -> None:
    save(root / "masks" / "3.png", mask(1, height=5))


def out_of_range(root: Path) -> None:
    (root / "classes.txt").write_text("a\nb\nc\n")
    save(root / "masks" / "3.png", mask(0, 7))


def damaged_mask(root: Path) -> None:
    (root / "masks" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")


def damaged_image(root: Path) -> None:
    (root / "images" / "3.png").write_bytes(b"rubbish")


def twins(root: Path) -> None:
    save(root / "images" / "3.jpg", picture())


def no_images(root: Path) -> None:
    for path in (root / "images").iterdir():
        path.unlink()


def one_class(root: Path) -> None:
    for path in (root / "masks").iterdir():
        save(path, mask(0))


def one_image(root: Path) -> None:
    for number in range(1, 5):
        (root / "images" / f"{number}.png").unlink()


def read_all(spec: str) -> None:
    for split in ("train", "val"):
        source = open_masks(spec, split=split)
        for index in range(len(source)):
            source.load(index)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (drop_mask, r"1 of 5 images have no mask.*3\.png"),
        (jpeg_mask, r"there is 3\.jpg; masks have to be PNG"),
        (colored_mask, r"masks/3\.png is a picture with colors"),
        (other_size, r"masks/3\.png has 5 x 8 pixels, but its image .*3\.png has 6 x 8"),
        (
            out_of_range,
            r"masks/3\.png holds the label 7 .first at row 0, column 1., but there are 3 classes: labels are 0 to 2",
        ),
        (damaged_mask, r"mask .*masks/3\.png cannot be read"),
        (damaged_image, r"images/3\.png cannot be read"),
        (twins, r"3\.jpg and .*3\.png would share one mask"),
        (no_images, r"images holds no images"),
        (one_class, r"no label above 0"),
        (one_image, r"one image cannot be split"),
    ],
)
def test_what_is_wrong_is_named_by_file(tmp_path: Path, harm: Callable[[Path], None], words: str) -> None:
    spec = pairs(tmp_path)
    harm(tmp_path)
    with pytest.raises(UserError, match=words):
        read_all(spec)


def test_ade20k_refuses_labels_beyond_its_classes(tmp_path: Path) -> None:
    save(tmp_path / "images" / "training" / "x.jpg", picture())
    save(tmp_path / "annotations" / "training" / "x.png", mask(0, 151))
    with pytest.raises(
        UserError, match=r"label 151 \(first at row 0, column 1\), but there are 150 classes: labels are 1 to 150"
    ):
        open_masks(f"ade20k:{tmp_path}").load(0)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("scene:8", "did you mean 'scenes'"),
        ("ade:/data", "did you mean 'ade20k'"),
        ("nothing", "there are scenes, ade20k, voc, pairs"),
        ("pairs:", "pairs:IMAGES,MASKS"),
        ("pairs:a,b,c", "two folders with a comma"),
        ("pairs:a", "there is no folder a"),
        ("pairs:nowhere,masks", "there is no folder nowhere"),
        ("voc:nowhere", "has no ImageSets"),
        (".", "name data with masks"),
        ("scenes:x", "scenes:COUNT"),
    ],
)
def test_unknown_data_is_refused_with_the_fix(spec: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        open_masks(spec)


def test_unknown_split() -> None:
    with pytest.raises(UserError, match="no split 'test'"):
        open_masks("scenes:8:32", split="test")
