"""Every example runs from its command line, at toy size, and does what it says."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import tyro
from PIL import Image
from safetensors.torch import save_file

from repre.data.scenes import Scenes, ScenesConfig

FOLDER = Path(__file__).parents[2] / "examples"
HERE = ("--device", "cpu", "--workers", "0")


def run(name: str, *words: object) -> Any:
    """What `python examples/NAME.py WORDS` gives."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return tyro.cli(module.main, args=[str(word) for word in words])


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of one scene twice and 31 others."""
    scenes = Scenes(32, config=ScenesConfig(size=48))
    (tmp_path / "photos").mkdir()
    for index in range(32):
        Image.fromarray(scenes.load(index)).save(tmp_path / "photos" / f"{index:02d}.png")
    Image.fromarray(scenes.load(0)).save(tmp_path / "photos" / "copy.png")
    return tmp_path / "photos"


def test_search_finds_the_copy(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = ("--epochs", 1, "--batch-size", 16, "--top", 3)
    found = run("search", "--data", photos, "--run", "run", "--query", photos / "00.png", *size, *HERE)
    assert found[0] == str(photos / "copy.png")
    assert len(found) == 3
    assert Image.open("run/nearest.png").width == 4 * 96
    assert "1.000" in capsys.readouterr().out


def test_segmentation_draws_a_curve_over_labels(capsys: pytest.CaptureFixture[str]) -> None:
    tiny = "random:vit_tiny_patch16_224[patch_size=8,embed_dim=32,depth=2,num_heads=2,image_size=32]"
    words = ("--encoder", tiny, "--data", "scenes:64:32", "--epochs", 5, "--out", "results")
    found = run("segmentation", *words, *HERE)
    assert set(found[tiny]) == {"miou", "miou@0.1", "pixel_accuracy", "pixel_accuracy@0.1"}
    assert len(list(Path("results").rglob("predictions/*.png"))) == 8
    said = capsys.readouterr().out
    assert "with 10% of the masks" in said
    assert "hardest" in said


def test_continuing_from_a_file_of_weights_is_compared_with_it(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    save_file(timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict(), "public.safetensors")
    words = ("--weights", "public.safetensors", "--name", "vit_tiny_patch16_224", "--data", photos, "--size", 32)
    small = ("--labeled", "scenes:64:32", "--epochs", 1, "--batch-size", 16, "--run", "runs/continued")
    found = run("continue_from_public", *words, *small, "--recipe", "vit-tiny-simclr", *HERE)
    start = "vit_tiny_patch16_224=public.safetensors"
    assert set(found) == {"runs/continued", start, "random:runs/continued"}
    assert "gain over the start" in capsys.readouterr().out
    assert Path("runs/comparison/compare.md").is_file()


def test_the_branch_learns_beside_another_loss() -> None:
    words = ("--data", "scenes:64:32", "--size", 32, "--steps", 24, "--batch", 16, "--out", "own")
    history = run("own_loss", *words)
    (first_contrastive, first_pixel), (last_contrastive, last_pixel) = history[0], history[-1]
    assert last_pixel < 0.9 * first_pixel
    assert last_contrastive < 0.9 * first_contrastive
    assert timm.create_model("local-dir:own/encoder", pretrained=True).num_features == 192


def test_the_table_of_examples_is_complete() -> None:
    table = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert {path.name for path in FOLDER.rglob("*.py")} == {
        word for word in table.replace("`", " ").split() if word.endswith(".py")
    }
