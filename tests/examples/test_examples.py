"""Every example runs from its command line, at toy size."""

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

EXAMPLES = Path(__file__).parents[2] / "examples"
ON_CPU = ("--device", "cpu", "--workers", "0")


def run_example(name: str, *arguments: object) -> Any:
    """Returns what `main` of examples/NAME.py returns for these command line arguments."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return tyro.cli(module.main, args=[str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPRE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of 32 scenes and a copy of the first."""
    scenes = Scenes(32, config=ScenesConfig(size=48))
    (tmp_path / "photos").mkdir()
    for index in range(32):
        Image.fromarray(scenes.load(index)).save(tmp_path / "photos" / f"{index:02d}.png")
    Image.fromarray(scenes.load(0)).save(tmp_path / "photos" / "copy.png")
    return tmp_path / "photos"


@pytest.mark.slow
def test_search_finds_the_copy(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--data", photos, "--run", "run", "--epochs", 1, "--batch-size", 16, "--top", 3, *ON_CPU)
    nearest = run_example("search", *options, "--query", photos / "00.png")
    assert nearest[0] == str(photos / "copy.png")
    assert len(nearest) == 3
    assert Image.open("run/nearest.png").width == 4 * 96
    assert "1.000" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"--query absent\.png is not in run/features\.npz"):
        run_example("search", *options, "--query", "absent.png")


@pytest.mark.slow
def test_segmentation_measures_every_label_fraction(capsys: pytest.CaptureFixture[str]) -> None:
    tiny = "random:vit_tiny_patch16_224[patch_size=8,embed_dim=32,depth=2,num_heads=2,image_size=32]"
    options = ("--encoder", tiny, "--data", "scenes:64:32", "--epochs", 5, "--out", "results")
    metrics = run_example("segmentation", *options, *ON_CPU)
    assert set(metrics[tiny]) == {"miou", "miou@0.1", "pixel_accuracy", "pixel_accuracy@0.1"}
    assert len(list(Path("results").rglob("predictions/*.png"))) == 8
    printed = capsys.readouterr().out
    assert "with 10% of the masks" in printed
    assert "worst classes" in printed


@pytest.mark.slow
def test_continuing_from_a_weights_file_compares_with_it(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    save_file(timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict(), "public.safetensors")
    model = ("--weights", "public.safetensors", "--name", "vit_tiny_patch16_224", "--recipe", "vit-tiny-simclr")
    sizes = ("--size", 32, "--epochs", 1, "--batch-size", 16)
    data = ("--data", photos, "--labeled", "scenes:64:32", "--run", "runs/continued")
    encoders = run_example("continue_from_public", *model, *sizes, *data, *ON_CPU)
    assert set(encoders) == {"runs/continued", "vit_tiny_patch16_224=public.safetensors", "random:runs/continued"}
    assert "gain over the initial weights" in capsys.readouterr().out
    assert Path("runs/comparison/compare.md").is_file()


@pytest.mark.slow
def test_the_branch_learns_together_with_another_loss() -> None:
    options = ("--data", "scenes:64:32", "--size", 32, "--steps", 24, "--batch", 16, "--out", "own")
    history = run_example("own_loss", *options)
    (first_contrastive, first_pixel), (last_contrastive, last_pixel) = history[0], history[-1]
    assert last_pixel < 0.9 * first_pixel
    assert last_contrastive < 0.9 * first_contrastive
    assert timm.create_model("local-dir:own/encoder", pretrained=True).num_features == 192


def test_the_table_of_examples_is_complete() -> None:
    table = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    scripts = {word for word in table.replace("`", " ").split() if word.endswith(".py")}
    assert {path.name for path in EXAMPLES.rglob("*.py")} == scripts
