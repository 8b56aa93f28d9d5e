"""The benchmarks of speed run at toy size, and say what they claim. Times themselves are never judged here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"


def call(script: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *words],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_step(tmp_path: Path) -> None:
    said = call("step.py", "--preset", "toy", "--rounds", "1", "--out", str(tmp_path))
    assert "| ViT, branch | 4 | 2 |" in said
    found = json.loads((tmp_path / "step-toy.json").read_text())
    assert set(found["runs"]) == {"ViT", "ViT, branch"}
    assert found["runs"]["ViT"][0]["ceiling_share"] > 0
    assert found["runs"]["ViT"][0]["memory_gib"] > 0


def test_feeding(tmp_path: Path) -> None:
    said = call("feeding.py", "--count", "64", "--sizes", "32", "--rounds", "1", "--out", str(tmp_path))
    for name in (
        "Pillow decodes whole images",
        "repre's loader, 1 processes",
        "torchvision's transforms, DINO's 2 x 32",
    ):
        assert name in said
    assert set(json.loads((tmp_path / "feeding-cpu.json").read_text())["against"].values()) > {""}


def test_pipeline(tmp_path: Path) -> None:
    words = ["--preset", "toy", "--method", "dino", "--rounds", "1", "--only", "repre", "plain", "--out", str(tmp_path)]
    said = call("pipeline.py", *words)
    assert "| repre |" in said
    assert "| plain |" in said
    assert (tmp_path / "views-dino-toy" / "views-repre.png").is_file()


def test_the_ceiling_is_made_of_the_step_s_own_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from ceiling import Recorder, replay

    layer = torch.nn.Linear(8, 4, bias=False)
    with Recorder() as recorder:
        layer(torch.ones(6, 8)).sum().backward()
    names = [call.function.overloadpacket.__name__ for call in recorder.calls]
    assert names == ["mm", "mm"]  # forward, and the gradient of the weight; the input needs none
    assert recorder.flops == 2 * (2 * 6 * 8 * 4)
    replay(recorder.calls, torch.device("cpu"))()
