"""Saved encoders: timm and this project load them, and get the same features."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file

from repre.errors import RunError, UserError
from repre.models.encoder import Encoder, EncoderConfig
from repre.models.timm_folder import load_saved_encoder, save_encoder
from repre.models.weight_files import describe_model
from tests.models.timm_models import MODELS, THREE_MODELS, VIT, build, draw_images, perturb, same_weights

pytestmark = pytest.mark.usefixtures("one_thread")


OTHER_SHAPES = {"vit_tiny_patch16_224": (96, 64), "vit_small_patch14_reg4_dinov2": (56, 84), "convnext_atto": (96, 64)}
OTHER_SHAPES |= {"swin_tiny_patch4_window7_224": (96, 64), "eva02_tiny_patch14_224": (56, 84), "mvitv2_tiny": (96, 96)}


@pytest.mark.parametrize(
    ("name", "changes"),
    [(name, {}) for name in MODELS]
    + [(name, {"channels": 4, "image_size": size}) for name, size in OTHER_SHAPES.items()],
)
def test_timm_loads_a_saved_encoder_in_one_line(tmp_path: Path, name: str, changes: dict[str, Any]) -> None:
    encoder = perturb(build(name, **changes))
    channels = changes.get("channels", 3)
    save_encoder(encoder, tmp_path, mean=[0.5] * channels, std=[0.25] * channels)
    in_timm = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    loaded = load_saved_encoder(tmp_path).eval()
    for size in [encoder.image_size, *MODELS[name][1][:1]]:
        x = draw_images(size, channels=channels)
        with torch.no_grad():
            assert torch.equal(in_timm(x), encoder(x).embedding)
            assert torch.equal(loaded(x).embedding, encoder(x).embedding)
    assert (loaded.out_indices, loaded.strides, loaded.image_size) == (
        encoder.out_indices,
        encoder.strides,
        encoder.image_size,
    )
    assert in_timm.pretrained_cfg["mean"] == [0.5] * channels
    assert tuple(in_timm.pretrained_cfg["input_size"]) == (channels, *encoder.image_size)
    assert load_file(tmp_path / "model.safetensors").keys() == encoder.model.state_dict().keys()
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "config.json"}


@THREE_MODELS
def test_timm_replaces_the_first_and_last_layer_of_a_saved_encoder(tmp_path: Path, name: str) -> None:
    save_encoder(perturb(build(name)), tmp_path)
    changed = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=7, in_chans=1).eval()
    assert changed(draw_images((64, 64), channels=1)).shape == (2, 7)


def test_a_tag_and_a_patch_size_survive_saving(tmp_path: Path) -> None:
    encoder = Encoder(
        EncoderConfig(
            name="vit_tiny_patch16_224.augreg_in21k",
            image_size=32,
            patch_size=8,
            model_args={**VIT, "global_pool": "avg"},
        )
    ).eval()
    save_encoder(encoder, tmp_path)
    in_timm = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(in_timm(draw_images((32, 32))), encoder(draw_images((32, 32))).embedding)
    assert same_weights(load_saved_encoder(tmp_path), encoder)


def test_load_refuses_a_folder_without_an_encoder(tmp_path: Path) -> None:
    for content in (None, "{", json.dumps({"architecture": "resnet18"})):
        if content is not None:
            (tmp_path / "config.json").write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match="holds no encoder of repre"):
            load_saved_encoder(tmp_path)


def test_a_full_disk_leaves_the_saved_encoder_intact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = perturb(build("vit_tiny_patch16_224"))
    save_encoder(encoder, tmp_path)

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RunError, match=r"could not write .*model\.safetensors: .*No space left"):
        save_encoder(perturb(encoder), tmp_path)
    assert same_weights(load_saved_encoder(tmp_path), perturb(build("vit_tiny_patch16_224")))


def test_pixel_statistics_are_read_back(tmp_path: Path) -> None:
    encoder = build("vit_tiny_patch16_224")
    save_encoder(encoder, tmp_path)
    assert describe_model(tmp_path / "model.safetensors").pixels == (None, None, None)
    save_encoder(encoder, tmp_path, mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6], value_range=(0.0, 4095.0))
    assert describe_model(tmp_path / "model.safetensors").pixels == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), (0.0, 4095.0))
