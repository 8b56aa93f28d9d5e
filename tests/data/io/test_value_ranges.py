"""Values that do not fit the range of their type are refused with the option that fits; values that do are not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from repre.data.io.sources import open_source
from repre.data.io.value_ranges import check_values, fitting_range
from repre.errors import UserError
from repre.evaluation import registry
from repre.models.resolve import resolve_encoder

Array = np.ndarray
Make = Callable[[Array], Array]


def folder(path: Path, make: Make, count: int = 6) -> Path:
    """NumPy files made of images of values from 0 to 1."""
    path.mkdir()
    for number in range(count):
        values = np.random.default_rng(number).random((12, 12, 3))
        values[0, 0], values[0, 1] = 0, 1
        np.save(path / f"{number}.npy", make(values))
    return path


def scaled(low: float, high: float, kind: type = np.float32) -> Make:
    return lambda values: (values * (high - low) + low).round(6).astype(kind)


REFUSED: dict[str, tuple[Make, str]] = {
    "floats of 8 bits": (scaled(0, 255), "0 255"),
    "reflectance": (scaled(0, 9947), "0 10000"),
    "12 bits": (scaled(0, 4080, np.uint16), "0 4095"),
    "10 bits": (scaled(0, 1000, np.uint16), "0 1000"),
    "14 bits": (scaled(0, 16100, np.uint16), "0 16383"),
    "8 bits in 16": (scaled(0, 254, np.uint16), "0 255"),
    "12 bits as floats": (scaled(0, 4050), "0 4095"),
    "normalized": (scaled(-1.9, 2.4), "-3 3"),
    "-1 to 1": (scaled(-1, 1), "-1 1"),
    "Hounsfield units": (scaled(-1024, 3071), "-1100 3100"),
    "far from 0": (scaled(30000, 32100, np.uint16), "30000 32100"),
    "faint floats": (scaled(0, 0.03), "0 0.03"),
    "truth values as bytes": (lambda values: (values > 0.5).astype(np.uint8), "0 1"),
    "numbers of classes": (scaled(0, 7, np.uint8), "0 10"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_range_that_fits_is_named_and_taken(tmp_path: Path, case: str) -> None:
    make, proposed = REFUSED[case]
    source = open_source(str(folder(tmp_path / "f", make)))
    with pytest.raises(UserError, match=rf"give --views.value-range {proposed}(\.|,) ") as refused:
        check_values(source, None)
    assert "uses the values as they are" in str(refused.value)
    low, high = map(float, proposed.split())
    check_values(source, (low, high))


TAKEN: dict[str, Make] = {
    "floats": scaled(0, 1),
    "a filter that overshoots": scaled(-0.015, 1.015),
    "reflectance as shares": scaled(0, 0.3),
    "bytes": scaled(0, 255, np.uint8),
    "dark bytes": scaled(0, 30, np.uint8),
    "16 bits": scaled(0, 65000, np.uint16),
    "15 bits": scaled(100, 30000, np.uint16),
    "truth values": lambda values: values > 0.5,
    "one channel": lambda values: (values[..., :1] * 255).astype(np.uint8),
}


@pytest.mark.parametrize("case", TAKEN)
def test_values_that_fit_are_no_matter(tmp_path: Path, case: str) -> None:
    check_values(open_source(str(folder(tmp_path / "f", TAKEN[case]))), None)


def test_single_odd_images_do_not_count(tmp_path: Path) -> None:
    path = folder(tmp_path / "f", scaled(0, 255, np.uint8), 20)
    for number, value in ((3, 0), (5, 255)):
        np.save(path / f"{number}.npy", np.full((12, 12, 3), value, np.uint8))
    (path / "7.npy").write_bytes(b"damaged")
    check_values(open_source(str(path)), None)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda values: (values * np.nan).astype(np.float32), "can be read, such as .*: NaN or infinite values"),
        (lambda values: (values / 0).astype(np.float32), "can be read, such as .*: NaN or infinite values"),
        (lambda values: np.full_like(values, 0.5, np.float32), "all 6 sampled images .* have one color each"),
        (
            lambda values: np.concatenate([values, values], 2).astype(np.float32),
            "6, not of 3 channels; .* --encoder.channels",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero|invalid value")
def test_images_without_content_are_refused_with_the_reason(tmp_path: Path, make: Make, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        check_values(open_source(str(folder(tmp_path / "f", make))), None)


def test_mixed_ranges_are_named(tmp_path: Path) -> None:
    one, other = folder(tmp_path / "a", scaled(0, 1)), folder(tmp_path / "b", scaled(0, 255))
    with pytest.raises(
        UserError, match=r"6 of 12 sampled images are floats of 0 to 255.*others are floats of 0 to 1.*--exclude"
    ):
        check_values(open_source([str(one), str(other)]), None)
    deep = folder(tmp_path / "c", scaled(0, 4095, np.uint16))
    byte = folder(tmp_path / "d", scaled(0, 255, np.uint8))
    with pytest.raises(UserError, match=r"16-bit integers of 0 to 4095.*others are 8-bit integers of 0 to 255"):
        check_values(open_source([str(deep), str(byte)]), None)
    check_values(open_source([str(one), str(byte)]), None)


def test_a_range_that_makes_all_images_black_or_white_is_refused(tmp_path: Path) -> None:
    source = open_source(str(folder(tmp_path / "f", scaled(100, 200, np.uint8))))
    with pytest.raises(
        UserError, match=r"--value-range 0 1 makes 100 % .*they are 100 to 200; give --value-range 100 200"
    ):
        check_values(source, (0, 1), option="--value-range")
    check_values(source, (140, 150))


def test_a_mask_of_two_values_has_a_range(tmp_path: Path) -> None:
    for number in range(4):
        values = (np.random.default_rng(number).random((12, 12)) > 0.5).astype(np.uint8) * 255
        Image.fromarray(values).save(tmp_path / f"{number}.png")
    check_values(open_source(str(tmp_path)), None)


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0, 0, (0, 1)), (5, 5, (0, 5)), (0, 1e9, (0, 1e9)), (-5, -1, (-5, -1))]
)
def test_odd_values_have_a_range(low: float, high: float, expected: tuple[float, float]) -> None:
    found = fitting_range(low, high)
    assert found == pytest.approx(expected, abs=0.5)
    assert found[0] <= low <= high <= found[1]
    assert found[0] < found[1]


@pytest.mark.parametrize("evaluation", ["segment", "patch-knn", "depth", "detect"])
def test_evaluations_refuse_values_that_do_not_fit(evaluation: str, tmp_path: Path) -> None:
    """Images of 12 bits in files of 16, with masks, depth or boxes."""
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for number in range(6):
        values = np.random.default_rng(number).integers(0, 4096, (32, 32)).astype(np.uint16)
        Image.fromarray(values).save(tmp_path / "images" / f"{number}.png")
        label = np.arange(32 * 32).reshape(32, 32)
        label = label + 1000 if evaluation == "depth" else label // 512
        Image.fromarray(label.astype(np.uint16 if evaluation == "depth" else np.uint8)).save(
            tmp_path / "labels" / f"{number}.png"
        )
        if evaluation == "detect":
            (tmp_path / "labels" / f"{number}.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    data = f"pairs:{tmp_path}/images,{tmp_path}/labels"
    resolved = resolve_encoder(
        "random:vit_tiny_patch16_224[image_size=32,patch_size=8,embed_dim=32,depth=2,num_heads=2]"
    )
    found = registry.evaluation(evaluation)
    config = found.config(data=f"yolo:{tmp_path}/images,{tmp_path}/labels" if evaluation == "detect" else data)
    assert found.check is not None
    with pytest.raises(UserError, match="give --value-range 0 4095"):
        found.check(resolved, config)
    found.check(resolved, replace(config, value_range=(0, 4095)))
