"""Every evaluation names all images that it cannot use at once, with and without workers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from repre.errors import BadImage, UserError
from repre.evaluation.bad_images import naming_bad_images
from repre.evaluation.classification import finetune, knn, linear
from repre.evaluation.depth import depth
from repre.evaluation.detection import detect
from repre.evaluation.fit import FitConfig
from repre.evaluation.options import RuntimeOptions
from repre.evaluation.segmentation import patch_knn, segment
from tests.data.labels.label_files import HEIGHT, WIDTH, save_image, write_text, write_yolo
from tests.evaluation.tiny_eval import on_cpu, tiny_resolved

FIT = FitConfig(epochs=1, batch_size=2)


def classes(root: Path) -> str:
    for name in "ab":
        for number in range(5):
            save_image(root / name / f"{number}.png")
    write_text(root / "a/2.png", "no image")
    write_text(root / "b/4.png", "no image")
    return str(root)


def masks(root: Path) -> str:
    stripes = np.repeat(np.array([0, 1], np.uint8), HEIGHT // 2)[:, None].repeat(WIDTH, 1)
    for number in range(6):
        save_image(root / "im" / f"{number}.png")
        save_image(root / "m" / f"{number}.png", stripes if number != 1 else stripes[:7])
    write_text(root / "classes.txt", "a\nb")
    save_image(root / "m/3.png", 5 * stripes)
    write_text(root / "im/4.png", "no image")
    return f"pairs:{root / 'im'},{root / 'm'}"


def depths(root: Path) -> str:
    for number in range(6):
        save_image(root / "im" / f"{number}.png")
        (root / "d").mkdir(exist_ok=True)
        Image.fromarray(np.full((HEIGHT, WIDTH), 3000, np.uint16)).save(root / "d" / f"{number}.png")
    save_image(root / "d/3.png")
    np.save(root / "d/none.npy", 0)
    write_text(root / "im/4.png", "no image")
    return f"pairs:{root / 'im'},{root / 'd/*.png'}"


def boxes(root: Path) -> str:
    write_yolo(root / "im", root / "lab", {str(number): ["0 .5 .5 .5 .5"] for number in range(6)})
    for name in ("2", "5"):
        noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        content = save_image(root / "im" / f"{name}.jpg", noise).read_bytes()
        (root / "im" / f"{name}.jpg").write_bytes(content[:-400])
    return f"yolo:{root / 'im'},{root / 'lab'}"


CASES: dict[str, tuple[Callable[[Path], str], Any, dict[str, Any], list[str]]] = {
    "knn": (classes, knn, {}, ["a/2.png cannot be read", "b/4.png cannot be read"]),
    "linear": (classes, linear, {}, ["a/2.png cannot be read", "b/4.png cannot be read"]),
    "finetune": (classes, finetune, {"fit": FIT}, ["a/2.png cannot be read", "b/4.png cannot be read"]),
    "segment": (
        masks,
        segment,
        {"fit": FIT},
        ["1.png has 7 x 40 pixels", "3.png holds the label 5", "4.png cannot be"],
    ),
    "upernet": (
        masks,
        segment,
        {"fit": FIT, "head": "upernet", "width": 8},
        ["1.png has 7 x 40 pixels", "3.png holds the label 5", "4.png cannot be"],
    ),
    "patch-knn": (masks, patch_knn, {}, ["1.png has 7 x 40 pixels", "3.png holds the label 5", "4.png cannot be"]),
    "depth": (depths, depth, {"fit": FIT}, ["d/3.png is a PNG of mode RGB", "im/4.png cannot be read"]),
    "detect": (boxes, detect, {"fit": FIT, "size": 32, "width": 8}, ["2.jpg cannot be read", "5.jpg cannot be read"]),
}
CONFIGS = {
    knn: knn.KNNConfig,
    linear: linear.LinearConfig,
    finetune: finetune.FinetuneConfig,
    segment: segment.SegmentConfig,
    patch_knn: patch_knn.PatchKNNConfig,
    depth: depth.DepthConfig,
    detect: detect.DetectConfig,
}


def refusal(name: str, root: Path, runtime: RuntimeOptions) -> str:
    write, module, settings, _ = CASES[name]
    config = CONFIGS[module](data=write(root), runtime=runtime, **settings)
    with pytest.raises(UserError) as error:
        module.run(tiny_resolved(), config)
    return str(error.value)


@pytest.mark.parametrize("name", CASES)
def test_all_bad_images_are_named_at_once(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refusal(name, tmp_path / "data", on_cpu(tmp_path / "cache"))
    expected = CASES[name][3]
    count = 10 if CASES[name][0] is classes else 6
    assert message.startswith(f"{len(expected)} of {count} images cannot be used; repair or remove them:\n  ")
    for words in expected:
        assert words in message
    assert "reading all images" in capsys.readouterr().out


def test_workers_name_them_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert refusal("segment", tmp_path / "data", on_cpu(tmp_path / "cache", workers=2)).startswith("3 of 6 images")
    assert "Traceback" not in "".join(capfd.readouterr())


class Broken:
    """Images of which all are bad."""

    def __len__(self) -> int:
        return 30

    def load(self, index: int) -> None:
        raise UserError(self.describe(index))

    def describe(self, index: int) -> str:
        return f"image {index}"


def test_of_many_the_first_are_named_and_other_errors_pass() -> None:
    with pytest.raises(UserError) as error, naming_bad_images(Broken(), Broken(), workers=0):
        raise BadImage("image 7")
    lines = str(error.value).split("\n  ")
    assert lines[0].startswith("30 of 60 images")
    assert (lines[1], lines[20], lines[21], len(lines)) == ("image 0", "image 19", "and 10 more", 22)
    with pytest.raises(UserError, match=r"^a wrong setting$"), naming_bad_images(Broken(), workers=0):
        raise UserError("a wrong setting")
