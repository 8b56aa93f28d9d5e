"""One command evaluates every label format, and `repre data check --labels` says what is in it."""

import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Repre
from tests.data.labels.label_files import HEIGHT, WIDTH, save_image, voc_object, write_text, write_voc, write_yolo

ENCODER = "random:vit_tiny_patch16_224[image_size=32,patch_size=8,embed_dim=32,depth=4,num_heads=2]"
CPU = ("--runtime.workers", 0, "--runtime.device", "cpu")
FIT = ("--fit.epochs", 1, "--fit.batch-size")
DETECT = ("eval", "detect", "--encoder", ENCODER, *CPU, "--size", 32, "--width", 16, *FIT, 2)
SEGMENT = ("eval", "segment", "--encoder", ENCODER, *CPU, *FIT, 4)
PLACES = [folder / "shared/data/real/camvid.tar" for folder in Path(__file__).parents]
CAMVID = next((file for file in PLACES if file.is_file()), None)


def result(out: str) -> dict[str, object]:
    content: dict[str, object] = json.loads(Path(re.findall("^written to (.+)$", out, re.M)[-1]).read_text())
    return content


def coco128(root: Path) -> Path:
    """COCO128's layout: one folder for training and validation, labels beside it, and a YAML file."""
    lines: dict[str, list[str] | None] = {f"{n:012}": ["0 0.5 0.5 0.5 0.5", "16 0.2 0.3 0.2 0.4"] for n in range(10)}
    lines["000000000003"] = None
    write_yolo(root / "images/train2017", root / "labels/train2017", lines)
    names = "\n".join(f"  {number}: thing {number}" for number in range(17))
    write_text(root / "data.yaml", f"path: coco128\ntrain: images/train2017\nval: images/train2017\nnames:\n{names}\n")
    return root


def test_coco128(repre: Repre, tmp_path: Path) -> None:
    root = coco128(tmp_path / "coco128")
    code, out, err = repre(*DETECT, "--data", f"yolo:{root}", "--out", tmp_path / "out")
    assert code == 0, err
    assert "1 of 10 images have no label file" in out
    assert "a fifth of the images is held out" in out
    assert out.count("the objects have boxes only, so no masks are predicted or scored") == 1
    content = result(out)
    assert {"box_ap", "box_ap50"} <= set(content["metrics"])  # type: ignore[call-overload]
    assert "mask_ap" not in content["metrics"]  # type: ignore[operator]
    details = content["details"]
    assert isinstance(details, dict)
    assert (details["train_images"], details["test_images"], details["test_set"]) == (8, 2, "held out")
    assert len(details["classes"]) == 17
    code, _, err = repre(*DETECT, "--masks", "True", "--data", f"yolo:{root}", "--out", tmp_path / "out")
    assert code == 2
    assert "have boxes only" in err


def test_a_folder_in_the_style_of_voc(repre: Repre, tmp_path: Path) -> None:
    polygon = "<polygon><x1>4</x1><y1>4</y1><x2>30</x2><y2>4</y2><x3>30</x3><y3>18</y3></polygon>"
    objects = [voc_object("kiln", (4, 4, 30, 18), more=polygon), voc_object("pot", (1, 1, 9, 9), difficult=1)]
    write_voc(tmp_path / "voc", {str(number): objects for number in range(6)})
    for name, stems in (("train", "0\n1\n2\n3\n"), ("val", "4\n5\n")):
        write_text(tmp_path / "voc/ImageSets/Main" / f"{name}.txt", stems)
    code, out, err = repre(*DETECT, "--data", f"voc:{tmp_path / 'voc'}", "--out", tmp_path / "out")
    assert code == 0, err
    content = result(out)
    assert {"box_ap", "mask_ap"} <= set(content["metrics"])  # type: ignore[call-overload]
    assert any(line.split() == ["class", "box", "AP", "mask", "AP"] for line in out.splitlines())
    assert [line.split()[:2] for line in out.splitlines() if line.startswith("  pot")][-1] == [
        "pot",
        "-",
    ]  # all pots are difficult
    assert "objects marked as difficult" in out


def test_masks_in_color_with_a_suffix(repre: Repre, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    colors = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8)
    for number in range(10):
        save_image(tmp_path / "d" / f"{number}.jpg")
        if number != 7:
            save_image(tmp_path / "d" / f"{number}_mask.png", colors[rng.integers(0, 3, (HEIGHT, WIDTH))])
    write_text(tmp_path / "d" / "colors.txt", "void: 0,0,0\nred: 255,0,0\nblue: 0,0,255")
    options = ("--data", f"pairs:{tmp_path / 'd'}", "--out", tmp_path / "out", "--ignore-label", "void")
    code, _, err = repre(*SEGMENT, *options)
    assert code == 2
    assert "1 of 10 images have no mask" in err
    code, out, err = repre(*SEGMENT, *options, "--skip-unlabeled")
    assert code == 0, err
    assert "1 of 10 images have no mask and are left out" in out
    content = result(out)
    assert isinstance(content["details"], dict)
    assert list(content["details"]["iou"]) == ["red", "blue"]
    lines = out.splitlines()
    start = next(number for number, line in enumerate(lines) if line.split() == ["class", "IoU"])
    rows = [line.split() for line in lines[start : start + 3]]
    assert rows[0] == ["class", "IoU"]
    assert [row[0] for row in rows[1:]] == ["red", "blue"]
    assert [float(row[1]) for row in rows[1:]] == pytest.approx(
        [100 * value for value in content["details"]["iou"].values()], abs=0.006
    )
    assert content["details"]["test_set"] == "held out"


@pytest.mark.slow
@pytest.mark.skipif(CAMVID is None, reason="CamVid is not here")
def test_camvid(repre: Repre, tmp_path: Path) -> None:
    assert CAMVID is not None
    with tarfile.open(CAMVID) as archive:
        archive.extractall(tmp_path, filter="data")
    root = tmp_path / "camvid"
    data = f"pairs:{root}/{{split}}/images,{root}/{{split}}/masks"
    code, out, err = repre(*SEGMENT, "--data", data, "--out", tmp_path / "out", "--fit.batch-size", 32)
    assert code == 0, err
    details = result(out)["details"]
    assert isinstance(details, dict)
    assert (details["train_images"], details["val_images"], details["test_set"]) == (367, 101, "val")
    assert list(details["iou"])[:2] == ["sky", "building"]
    assert len(details["iou"]) == 11


def test_check_counts_boxes_and_names_every_mistake(repre: Repre, tmp_path: Path) -> None:
    root = coco128(tmp_path / "coco128")
    code, out, err = repre("data", "check", "--labels", f"yolo:{root}", "--workers", 0)
    assert (code, err) == (0, "")
    assert out.startswith("train: 18 objects in 10 images, boxes only; 0 crowds\n")
    assert "no problems" in out
    assert out.count("train:") + out.count("val:") == 1  # both are one folder
    write_text(root / "labels/train2017/000000000004.txt", "0 1.5 .5 .1 .1\n99 .5 .5 .1 .1\n0 .5 .5 .1 .1\n")
    code, out, _ = repre("data", "check", "--labels", f"yolo:{root}", "--workers", 0)
    assert code == 1
    assert "problems (2):" in out
    assert "000000000004.txt line 1: center x is 1.5, outside the image" in out
    assert "000000000004.txt line 2: the class 99 has no name" in out


def test_check_counts_masks_with_their_options(repre: Repre, tmp_path: Path) -> None:
    for number in range(4):
        save_image(tmp_path / "im" / f"{number}.jpg")
        save_image(tmp_path / "m" / f"{number}.png", np.full((HEIGHT, WIDTH), number, np.uint8))
    check = ("data", "check", f"pairs:{tmp_path / 'im'},{tmp_path / 'm'}", "--workers", 0)
    code, out, err = repre(*check, "--labels", "--ignore-label", 3)
    assert (code, err) == (0, "")
    assert "ignored: 25.00% of the pixels" in out
    code, _, err = repre(*check, "--ignore-label", 3)
    assert code == 2
    assert "need --labels" in err
    assert repre("data", "check", "scenes:4:32", "--split", "foo")[0] == 2
