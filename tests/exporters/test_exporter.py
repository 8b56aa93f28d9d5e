"""Every export gives the encoder's features in the other library, or is an error and leaves nothing."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import onnxruntime
import pytest
import timm
import torch
from torch import Tensor

from repre.errors import RunError, UserError
from repre.exporters import TARGETS, export, exporter, onnx_export, torch_export
from repre.models.encoder import Encoder, EncoderConfig
from repre.models.resolve import ResolvedEncoder, resolve_encoder
from repre.models.timm_folder import load_saved_encoder, save_encoder
from tests.tiny import ENCODERS

KINDS = ENCODERS | {
    "convnext": EncoderConfig(name="convnext_atto", image_size=64, model_args={"depths": (1, 1, 1, 1)}),
    "grayscale": EncoderConfig(
        name="vit_tiny_patch16_224", image_size=(48, 80), channels=1, model_args={"depth": 2, "global_pool": "avg"}
    ),
    "oblong windows": replace(ENCODERS["swin"], image_size=(32, 96)),
}
ALL_TARGETS = [pytest.param(name, marks=() if name == "timm" else pytest.mark.slow) for name in TARGETS]


def save(kind: str, folder: Path) -> str:
    torch.manual_seed(0)
    channels = KINDS[kind].channels
    save_encoder(Encoder(KINDS[kind]), folder / "encoder", mean=[0.4] * channels, std=[0.2] * channels)
    return str(folder / "encoder")


class Written(NamedTuple):
    """An encoder that was written for another library."""

    spec: str
    folder: Path
    model: Callable[[Tensor], list[Tensor]]
    """The other library's."""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Written]:
    """Gives the ViT as a target writes it, which takes seconds, so it is done once."""

    @cache
    def write(target: str) -> Written:
        folder = tmp_path_factory.mktemp(target)
        spec = save("vit", folder)
        (folder / "written").mkdir()
        resolved = resolve_encoder(spec)
        model = TARGETS[target].write(resolved.build().eval(), folder / "written", resolved)
        return Written(spec, folder / "written", model)

    return write


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.parametrize("target", ALL_TARGETS)
@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(kind: str, target: str, tmp_path: Path) -> None:
    exported = export(save(kind, tmp_path), to=target, out=tmp_path / "out")
    assert exported.difference <= TARGETS[target].tolerance
    assert (exported.path / "export.json").is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["encoder", "out"]


@pytest.mark.parametrize("target", ALL_TARGETS)
def test_embedding_and_every_map_are_compared(
    target: str, written: Callable[[str], Written], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One output of the other library is a little off, or the last is missing."""
    spec, folder, exported_model = written(target)
    with torch.no_grad():
        assert len(exported_model(torch.zeros(1, 3, 32, 32))) == 5

    def altered(index: int | None) -> Callable[[Tensor], list[Tensor]]:
        def forward(images: Tensor) -> list[Tensor]:
            outputs = exported_model(images)
            return outputs[:-1] if index is None else [x * 1.01 if i == index else x for i, x in enumerate(outputs)]

        return forward

    for index in (*range(5), None):
        wrong = replace(
            TARGETS[target],
            write=lambda *_, index=index: altered(index),
            preprocessing=lambda _: TARGETS[target].preprocessing(folder),
        )
        monkeypatch.setattr(exporter, "TARGETS", TARGETS | {target: wrong})
        with pytest.raises(RunError, match="has 4 outputs" if index is None else "differs from it"):
            export(spec, to=target, out=tmp_path / "out")
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("target", ALL_TARGETS)
def test_another_function_is_an_error_and_leaves_nothing(
    target: str, written: Callable[[str], Written], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, files, exported_model = written(target)

    def wrong(encoder: Encoder, folder: Path, resolved: ResolvedEncoder) -> Callable[[Tensor], list[Tensor]]:
        shutil.copytree(files, folder, dirs_exist_ok=True)
        with torch.no_grad():
            next(p for n, p in encoder.named_parameters() if n.endswith("norm.weight")).mul_(1.01)
        return exported_model

    monkeypatch.setattr(exporter, "TARGETS", TARGETS | {target: replace(TARGETS[target], write=wrong)})
    with pytest.raises(RunError, match="differs from it"):
        export(spec, to=target, out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_preprocessing_travels_and_is_used_to_compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, target = save("vit", tmp_path), TARGETS["timm"]
    export(spec, to="timm", out=tmp_path / "own")
    out = tmp_path / "given"
    export(spec, to="timm", out=out, size=(24, 40), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    own, other = (target.preprocessing(folder) for folder in (tmp_path / "own", out))
    rest = {"crop_pct": 1.0, "interpolation": "bicubic", "value_range": None}
    assert own == {"size": [32, 32], "mean": [0.4] * 3, "std": [0.2] * 3} | rest
    assert other == {"size": [24, 40], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]} | rest
    wrong = replace(target, preprocessing=lambda folder: own | {"mean": [0.5] * 3})
    monkeypatch.setattr(exporter, "TARGETS", TARGETS | {"timm": wrong})
    with pytest.raises(RunError, match="differs from it"):
        export(spec, to="timm", out=tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


def test_timm_reads_the_preprocessing_of_an_export(tmp_path: Path) -> None:
    out = export(save("vit", tmp_path), to="timm", out=tmp_path / "out").path
    config = timm.data.resolve_model_data_config(timm.create_model(f"local-dir:{out}", pretrained=True))
    assert config["input_size"] == (3, 32, 32)
    assert (list(config["mean"]), list(config["std"])) == ([0.4] * 3, [0.2] * 3)
    assert (config["crop_pct"], config["interpolation"]) == (1.0, "bicubic")


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_export_that_is_cut_short_leaves_nothing_or_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    spec, out = save("vit", tmp_path), tmp_path / "out"
    real = TARGETS["timm"].write

    def stopped(encoder: Encoder, folder: Path, resolved: ResolvedEncoder) -> Callable[[Tensor], list[Tensor]]:
        real(encoder, folder, resolved)
        raise error

    for old in (False, True):
        if old:
            export(spec, to="timm", out=out)
        monkeypatch.setattr(exporter, "TARGETS", TARGETS | {"timm": replace(TARGETS["timm"], write=stopped)})
        with pytest.raises((KeyboardInterrupt, UserError)):
            export(spec, to="timm", out=out)
        monkeypatch.undo()
        assert sorted(p.name for p in tmp_path.iterdir()) == ["encoder", "out"][: 1 + old]
    assert (out / "export.json").is_file()


def test_a_link_as_out_stays_a_link(tmp_path: Path) -> None:
    spec, out = save("vit", tmp_path), tmp_path / "link"
    (tmp_path / "disk").mkdir()
    out.symlink_to(tmp_path / "disk")
    for _ in range(2):
        export(spec, to="timm", out=out)
    assert out.is_symlink()
    assert (tmp_path / "disk" / "model.safetensors").is_file()


def test_an_export_replaces_an_export_but_nothing_else(tmp_path: Path) -> None:
    spec, out = save("vit", tmp_path), tmp_path / "out"
    export(spec, to="timm", out=out)
    export(spec, to="timm", out=out)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="exists and is not an export"):
        export(spec, to="timm", out=tmp_path / "other")
    assert (tmp_path / "other" / "thesis.txt").read_text() == "precious"
    with pytest.raises(UserError, match="did you mean 'onnx'"):
        export(spec, to="onxx", out=out)


@pytest.mark.slow
def test_onnx_and_program_take_any_number_of_images(written: Callable[[str], Written]) -> None:
    (spec, onnx, _), (_, program, _) = written("onnx"), written("torch-export")
    encoder = load_saved_encoder(spec).eval()
    session = onnxruntime.InferenceSession(onnx / "model.onnx")
    module = torch.export.load(program / "model.pt2").module()
    assert [o.name for o in session.get_outputs()][:2] == ["embedding", "map_0"]
    metadata = torch_export.read_metadata(program)
    assert metadata == onnx_export.read_metadata(onnx)
    assert json.loads(metadata["input"]) == {"name": "images", "shape": ["batch", 3, 32, 32]}
    assert json.loads(metadata["preprocessing"]) == resolve_encoder(spec).build().transform().describe()
    with pytest.raises(Exception, match="dimension"):
        session.run(None, {"images": torch.rand(1, 3, 40, 32).numpy()})
    with pytest.raises(Exception, match="32"):
        module(torch.rand(1, 3, 40, 32))
    for count in (1, 7):
        images = torch.rand(count, 3, 32, 32)
        wanted = encoder(images).embedding.detach()
        assert torch.allclose(torch.from_numpy(session.run(None, {"images": images.numpy()})[0]), wanted, atol=1e-4)
        assert torch.allclose(module(images)[0], wanted, atol=1e-5)
