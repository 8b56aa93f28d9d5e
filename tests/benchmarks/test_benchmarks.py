"""The benchmarks run at toy size and write their tables. The tests do not judge times."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.own_process import run_file

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run_benchmark(script: str, *arguments: str) -> str:
    """Runs a benchmark in its own process and returns what it prints."""
    process = run_file(BENCHMARKS / script, *arguments)
    assert process.returncode == 0, process.stderr[-2000:]
    return process.stdout


@pytest.mark.slow
def test_step_measures_time_memory_and_ceiling(tmp_path: Path) -> None:
    printed = run_benchmark("step.py", "--preset", "toy", "--rounds", "1", "--out", str(tmp_path))
    assert "| ViT, branch | 4 | 2 |" in printed
    results = json.loads((tmp_path / "step-toy.json").read_text())
    assert set(results["runs"]) == {"ViT", "ViT, branch"}
    assert results["runs"]["ViT"][0]["ceiling_share"] > 0
    assert results["runs"]["ViT"][0]["memory_gib"] > 0


@pytest.mark.slow
def test_feeding_compares_reading_loading_and_views(tmp_path: Path) -> None:
    printed = run_benchmark("feeding.py", "--count", "64", "--sizes", "32", "--rounds", "1", "--out", str(tmp_path))
    for name in (
        "Pillow decodes whole images",
        "repre's loader, 1 processes",
        "torchvision's transforms, DINO's 2 x 32",
    ):
        assert name in printed
    results = json.loads((tmp_path / "feeding-cpu.json").read_text())
    baselines = set(results["against"].values()) - {""}
    assert baselines
    assert baselines <= results["ms_per_image"].keys()


@pytest.mark.slow
def test_fidelity_compares_views_of_whole_and_of_shrunk_files(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (150, 200, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg", quality=95)
    Image.fromarray(noise[:40, :40]).save(tmp_path / "small.jpg")
    printed = run_benchmark("fidelity.py", str(tmp_path), "--at-least", "100", "--sizes", "100", "300", "--rounds", "1")
    assert "1 files" in printed
    rows = {line.split(" | ")[0]: line.split(" | ")[3:] for line in printed.splitlines() if line.startswith("| ")}
    assert all(float(cell.split(",")[0]) < 0.5 for cell in rows["| 100"]), "noise is lost where files are shrunk"
    assert rows["| 300"] == rows["| whole files"]


@pytest.mark.slow
def test_pipeline_runs_contenders_and_saves_their_views(tmp_path: Path) -> None:
    options = ["--preset", "toy", "--method", "dino", "--rounds", "1", "--out", str(tmp_path)]
    printed = run_benchmark("pipeline.py", *options, "--only", "repre", "plain")
    assert "| repre |" in printed
    assert "| plain |" in printed
    for name in ("repre", "plain"):
        assert (tmp_path / "views-dino-toy" / f"views-{name}.png").is_file()


def test_the_ceiling_consists_of_the_step_s_own_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from ceiling import Recorder, replay

    layer = torch.nn.Linear(8, 4, bias=False)
    with Recorder() as recorder:
        layer(torch.ones(6, 8)).sum().backward()
    names = [call.function.overloadpacket.__name__ for call in recorder.calls]
    assert names == ["mm", "mm"]  # forward, and the gradient of the weight; the input needs none
    assert recorder.flops == 2 * (2 * 6 * 8 * 4)
    replay(recorder.calls, torch.device("cpu"))()


@pytest.mark.slow
def test_sources_measures_scale_and_speed(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    for kinds, counts in ((("text list", "folder", "arrow"), (64,)), (("tar",), (64, 256))):
        entries = map(str, counts)
        scale = ["scale", "--kinds", *kinds, "--entries", *entries, "--workers", "1", "--out", str(tmp_path)]
        printed = run_benchmark("sources.py", *scale)
        rows = json.loads((tmp_path / "sources-scale.json").read_text())["rows"]
        assert {(row["kind"], row["entries"]) for row in rows} == {(kind, count) for kind in kinds for count in counts}
        assert f"| {kinds[-1]} | {counts[-1]} |" in printed
