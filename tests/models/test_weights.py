"""Start weights: from every usual wrapper and file, fitted to the model, or refused with the reason."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from repre.errors import UserError
from repre.models.timm_folder import save_encoder
from repre.models.weights import read_weights
from tests.models.timm_models import THREE_MODELS, build, draw_images, perturb, same_weights

pytestmark = pytest.mark.usefixtures("one_thread")


WRAPPERS: dict[str, Callable[[dict[str, Tensor]], dict[str, Any]]] = {
    "plain": lambda state: state,
    "training script": lambda state: {"epoch": torch.tensor(3), "model": {f"module.{k}": v for k, v in state.items()}},
    "dino": lambda state: {
        "student": {f"module.backbone.{k}": torch.zeros_like(v) for k, v in state.items()},
        "teacher": {f"backbone.{k}": v for k, v in state.items()} | {"head.mlp.0.weight": torch.zeros(2, 2)},
    },
    "moco v3": lambda state: {
        "state_dict": {f"module.base_encoder.{k}": v for k, v in state.items()}
        | {f"module.momentum_encoder.{k}": torch.zeros_like(v) for k, v in state.items()}
    },
    "supervised": lambda state: state | {"head.weight": torch.zeros(10, 48), "head.bias": torch.zeros(10)},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_weights_are_found_in_the_usual_wrappers(tmp_path: Path, wrapper: str) -> None:
    source = perturb(build("vit_tiny_patch16_224"))
    torch.save(WRAPPERS[wrapper](dict(source.model.state_dict())), tmp_path / "start.pth")
    assert same_weights(source, build("vit_tiny_patch16_224", weights=str(tmp_path / "start.pth")))


@THREE_MODELS
def test_weights_of_a_safetensors_file(tmp_path: Path, name: str) -> None:
    source = perturb(build(name))
    save_file(dict(source.model.state_dict()), tmp_path / "start.safetensors")
    assert same_weights(source, build(name, weights=str(tmp_path / "start.safetensors")))


def test_weights_of_other_positions_and_channels_are_adapted(tmp_path: Path) -> None:
    source = perturb(build("vit_tiny_patch16_224", image_size=(32, 128)))
    save_encoder(source, tmp_path)
    larger = build("vit_tiny_patch16_224", image_size=(64, 96), weights=str(tmp_path))
    patches = source.model.pos_embed[:, 1:].unflatten(1, (2, 8)).permute(0, 3, 1, 2)
    expected = nn.functional.interpolate(patches, (4, 6), mode="bicubic", antialias=True)
    torch.testing.assert_close(larger.model.pos_embed[:, 1:].transpose(1, 2), expected.flatten(2), rtol=0, atol=1e-5)
    gray = build("vit_tiny_patch16_224", image_size=(32, 128), channels=1, weights=str(tmp_path))
    x = draw_images((32, 128), channels=1)
    torch.testing.assert_close(gray(x).embedding, source(x.expand(-1, 3, -1, -1)).embedding, rtol=1e-4, atol=1e-4)


def test_weights_of_another_model_are_refused_with_counts(tmp_path: Path) -> None:
    source = perturb(build("vit_tiny_patch16_224"))
    path = str(tmp_path / "start.safetensors")
    save_file({k.replace("blocks.3", "blocks.9"): v for k, v in source.model.state_dict().items()}, path)
    with pytest.raises(UserError, match=r"12 missing \(blocks.3.\S+, .*12 not in the model \(blocks.9.*allow-partial"):
        build("vit_tiny_patch16_224", weights=path)
    with pytest.warns(UserWarning, match=r"timm's names; 42 tensors .* in part: 12 missing"):
        partial = build("vit_tiny_patch16_224", weights=path, allow_partial=True)
    assert same_weights(source.model.blocks[2], partial.model.blocks[2])
    assert not same_weights(source.model.blocks[3], partial.model.blocks[3])
    with pytest.raises(UserError, match="does not match"):  # nothing fits
        build("resnet18", weights=path, allow_partial=True)


def test_unreadable_weights_are_refused(tmp_path: Path) -> None:
    torch.save({"model": nn.Linear(1, 1)}, tmp_path / "pickle.pth")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    for name in ("broken.pth", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"nothing")
    for name, message in {
        "pickle.pth": "never unpickled",
        "empty.pth": "holds no tensors",
        "broken.pth": "cannot be read",
        "broken.safetensors": "cannot be read",
        "absent.pth": "there is no file",
    }.items():
        with pytest.raises(UserError, match=message):
            read_weights(tmp_path / name)
