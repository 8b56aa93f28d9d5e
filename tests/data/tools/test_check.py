"""A check counts every image and names what is wrong."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from repre.cli.main import main
from repre.data.io.sources import open_source
from repre.data.tools.check import MAX_NAMES, check


def folder(root: Path) -> Path:
    rng = np.random.default_rng(0)
    root.mkdir()
    for number, (height, width) in enumerate([(8, 12), (8, 12), (20, 10)]):
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(root / f"{number}.png")
    (root / "copy.png").write_bytes((root / "0.png").read_bytes())
    Image.new("L", (9, 9), 77).save(root / "flat.png")
    frames = [Image.fromarray(rng.integers(0, 255, (9, 9), dtype=np.uint8)) for _ in range(2)]
    frames[0].save(root / "moving.gif", save_all=True, append_images=frames[1:])
    (root / "torn.png").write_bytes((root / "1.png").read_bytes()[:60])
    return root


@pytest.mark.parametrize("workers", [0, 1])
def test_findings_are_counted_and_named(tmp_path: Path, workers: int) -> None:
    root = folder(tmp_path / "images")
    findings = check(open_source(str(root), cache_dir=tmp_path / "cache"), workers=workers)
    assert findings.count == 7
    assert [Path(name).name for name, _ in findings.unreadable] == ["torn.png"]
    assert findings.sizes == {(8, 12): 3, (20, 10): 1, (9, 9): 2}
    assert findings.kinds == {"3 channels of uint8": 6}
    assert [{Path(name).name for name in group} for group in findings.copies] == [{"0.png", "copy.png"}]
    assert [Path(name).name for name in findings.flat] == ["flat.png"]
    assert [Path(name).name for name in findings.several] == ["moving.gif"]
    report = "\n".join(findings.lines())
    for text in (
        "7 images, 1 unreadable",
        "1 file holds several frames",
        f"  {root}/moving.gif",
        "8 to 10 pixels",
        "8 x 12 (3)",
        "torn.png: ",
        "copies of other images (1)",
    ):
        assert text in report


def test_the_exit_code_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folder(tmp_path / "images")
    assert main(["data", "check", str(root), "--workers", "0"]) == 1
    assert "torn.png" in capsys.readouterr().out
    (root / "torn.png").unlink()
    assert main(["data", "check", str(root), "--workers", "0"]) == 0
    assert main(["data", "chekc", str(root)]) == 2
    assert "check" in capsys.readouterr().err
    assert main(["data", "scenes", "--out", str(tmp_path / "s"), "--train", "2", "--val", "1", "--size", "16"]) == 0
    assert (tmp_path / "s" / "val" / "annotations.json").is_file()
    assert main(["data", "check", "scenes:3:16", "--workers", "0"]) == 0


def test_long_lists_are_cut(tmp_path: Path) -> None:
    root = tmp_path / "images"
    root.mkdir()
    for number in range(MAX_NAMES + 5):
        (root / f"{number:02}.png").write_bytes(b"no image")
    lines = check(open_source(str(root), cache_dir=tmp_path / "cache"), workers=0).lines()
    assert lines[-1] == "  and 5 more"
    assert len(lines) == MAX_NAMES + 4
