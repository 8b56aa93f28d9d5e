"""`repre export`."""

from pathlib import Path

import pytest
import timm

from repre.exporters import TARGETS
from tests.cli.conftest import Repre


@pytest.mark.parametrize("option", ["--run", "--encoder"])
def test_an_export_of_a_run(option: str, repre: Repre, run_copy: Path) -> None:
    code, out, err = repre("export", option, run_copy)
    assert code == 0, err
    folder = run_copy / "exports" / "timm"
    assert f"written to {folder}; largest difference" in out
    timm.create_model(f"local-dir:{folder}", pretrained=True)


def test_help_lists_the_targets(repre: Repre) -> None:
    code, out, _ = repre("export", "--help")
    assert code == 0
    assert all(f"{name}:" in out for name in TARGETS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--run", "runs/none", "--to", "onnx"), "no such run"),
        (("--run", "runs/none", "--to", "onxx"), "did you mean 'onnx'"),
        ((), "--encoder"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], message: str, repre: Repre) -> None:
    code, out, err = repre("export", *arguments)
    assert (code, out) == (2, "")
    assert message in err
