"""`repre reconstruct`."""

from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import Repre


def test_images_above_their_reconstructions(repre: Repre, finished_run: Path, photos: Path, tmp_path: Path) -> None:
    images, out = (photos / "1.jpg", photos / "2.jpg"), tmp_path / "panel.png"
    code, printed, err = repre("reconstruct", "--run", finished_run, *images, "--out", out)
    assert code == 0, err
    assert [line.split(": PSNR")[0] for line in printed.splitlines()[:2]] == [str(image) for image in images]
    assert printed.endswith(f"written to {out}\n")
    panel = Image.open(out)
    assert panel.width > 2 * 128
    best = finished_run / "checkpoints" / "last.pt"
    again = repre("reconstruct", "--run", finished_run, *images, "--out", out, "--checkpoint", best)
    assert again[:2] == (0, printed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--run", "runs/none", "a.jpg"), "no checkpoint"),
        (("a.jpg",), "--run"),
        (("--run", "runs/none"), "at least one image"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], message: str, repre: Repre) -> None:
    code, out, err = repre("reconstruct", *arguments)
    assert (code, out) == (2, "")
    assert message in err
