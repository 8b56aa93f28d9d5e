"""Load, embed and export from Python."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

import repre

CPU = {"device": "cpu", "workers": 0}


def test_an_encoder_is_loaded_from_a_run_or_its_own_folder(run: repre.Run) -> None:
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        embeddings = [repre.load_encoder(path)(images).embedding for path in (run.path, run.path / "encoder")]
    assert embeddings[0].shape == (2, 32)
    assert torch.equal(*embeddings)
    assert not repre.load_encoder(str(run.path)).training


def test_an_unfinished_run_has_no_encoder(run: repre.Run, tmp_path: Path) -> None:
    shutil.copy(run.path / "config.yaml", tmp_path)
    with pytest.raises(repre.UserError, match="repre pretrain --resume"):
        repre.load_encoder(tmp_path)
    with pytest.raises(repre.UserError, match="there is no such run or file"):
        repre.load_encoder(tmp_path / "nowhere")


def test_features_of_a_folder(run: repre.Run, photos: Path, tmp_path: Path) -> None:
    embeddings = repre.embed(run.path, data=photos, out=tmp_path / "features.npz", runtime=CPU)
    assert embeddings == repre.Embeddings(tmp_path / "features.npz", 16, None)
    features = np.load(embeddings.path)["features"]
    options = repre.RuntimeOptions(device="cpu", workers=0, batch=5)
    maps = repre.embed(str(run.path), data=str(photos), out=str(tmp_path / "maps.npz"), kind="patch", runtime=options)
    assert features.shape == (16, 32)
    assert np.load(maps.path)["features"].shape == (16, 32, 4, 4)
    with pytest.raises(repre.UserError, match="device"):
        repre.embed(run.path, data=photos, out=tmp_path / "a.npz", runtime={"devise": "cpu"})


def test_unreadable_files_are_listed(run: repre.Run, photos: Path, tmp_path: Path) -> None:
    shutil.copy(photos / "1.png", tmp_path)
    (tmp_path / "bad.png").write_bytes(b"no image")
    embeddings = repre.embed(run.path, data=tmp_path, out=tmp_path / "features.npz", runtime=CPU)
    assert embeddings.count == 1
    assert embeddings.unreadable is not None
    assert "bad.png" in embeddings.unreadable.read_text()


def test_an_export(run: repre.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exported = repre.export(run.path, out=tmp_path / "timm")
    assert isinstance(exported, repre.Exported)
    assert exported.path == tmp_path / "timm"
    assert exported.difference < 1e-5
    timm.create_model(f"local-dir:{exported.path}", pretrained=True)
    encoder = shutil.copytree(run.path / "encoder", tmp_path / "encoder")
    assert repre.export(encoder).path == tmp_path / "encoder/exports/timm"
    monkeypatch.chdir(tmp_path)
    assert repre.export("random:vit_tiny_patch16_224[depth=1,embed_dim=16,num_heads=2]").path == Path("exports/timm")
    with pytest.raises(repre.UserError, match="did you mean 'onnx'"):
        repre.export(run.path, to="onxx")
