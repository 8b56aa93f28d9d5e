"""Meta's and Microsoft's names of parameters, written from timm's: loading them gives back the same weights, bit for bit."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from repre.errors import UserError
from repre.models.encoder import Encoder, EncoderConfig
from repre.models.weight_names import rename
from tests.models.timm_models import MODELS, VIT, build, perturb, same_weights

pytestmark = pytest.mark.usefixtures("one_thread")

State = dict[str, Tensor]
SWIN = "swin_tiny_patch4_window7_224"


def sub(pattern: str, new: str, state: State) -> State:
    return {re.sub(pattern, new, key): value for key, value in state.items()}


def chunked(state: State) -> State:
    return {re.sub(r"blocks\.(\d+)", lambda m: f"blocks.{int(m[1]) // 2}.{m[1]}", k): v for k, v in state.items()}


def dinov2_registers(state: State) -> State:
    """Position 0 is the class token's; timm adds it to the token. Adding 0 changes no bit."""
    state = sub("^reg_token", "register_tokens", state)
    positions = torch.cat([torch.zeros_like(state["cls_token"]), state["pos_embed"]], 1)
    return chunked(state) | {"pos_embed": positions, "mask_token": torch.ones(1, 48)}


def dinov2_giant(state: State) -> State:
    return sub(r"mlp\.fc1", "mlp.w12", sub(r"mlp\.fc2", "mlp.w3", state)) | {"mask_token": torch.ones(1, 48)}


def dinov3(state: State) -> State:
    """Meta keeps a bias of the keys that a mask takes away."""
    state = sub(r"gamma_([12])", r"ls\1.gamma", sub("^reg_token", "storage_tokens", state))
    for block in range(VIT["depth"]):
        stem = f"blocks.{block}.attn."
        q, v = (state.pop(f"{stem}{part}_bias", torch.zeros(48)) for part in "qv")
        state[f"{stem}qkv.bias"] = torch.cat([q, torch.ones(48), v])
        state[f"{stem}qkv.bias_mask"] = torch.cat([torch.ones(48), torch.full((48,), torch.nan), torch.ones(48)])
    return state | {"mask_token": torch.ones(1, 48), "rope_embed.periods": torch.ones(4)}


def microsoft_swin(state: State) -> State:
    state = {re.sub(r"^layers\.(\d)\.down", lambda m: f"layers.{int(m[1]) - 1}.down", k): v for k, v in state.items()}
    buffers = {"layers.0.blocks.1.attn_mask": torch.ones(4, 16, 16)}
    return (
        state
        | buffers
        | {"layers.0.blocks.0.attn.relative_position_index": torch.ones(16, 16), "head.bias": torch.ones(9)}
    )


def simmim_swin(state: State) -> State:
    encoder = {f"encoder.{key}": value for key, value in microsoft_swin(state).items()}
    return encoder | {"encoder.mask_token": torch.ones(1, 1, 24), "decoder.0.weight": torch.ones(3, 3)}


# Name: the model, changes to its config, and its state as the authors would name it.
LAYOUTS: dict[str, tuple[str, dict[str, Any], Callable[[State], State]]] = {
    "blocks in chunks": ("vit_tiny_patch16_224", {}, chunked),
    "dinov2 with registers": ("vit_small_patch14_reg4_dinov2", {}, dinov2_registers),
    "dinov2 giant": ("vit_giant_patch14_dinov2", {"image_size": 28, "model_args": VIT}, dinov2_giant),
    "dinov3": ("vit_small_patch16_dinov3", {"image_size": 32, "model_args": VIT}, dinov3),
    "dinov3 with biases": ("vit_small_patch16_dinov3_qkvb", {"image_size": 32, "model_args": VIT}, dinov3),
    "deit III": ("deit3_small_patch16_224", {}, lambda state: sub(r"ls([12])\.gamma", r"gamma_\1", state)),
    "swin": (SWIN, {}, microsoft_swin),
    "simmim": (SWIN, {}, simmim_swin),
}


def model(name: str, **changes: Any) -> Encoder:
    """A model of the tests' table, or another one of this config."""
    if name in MODELS:
        return build(name, **changes)
    torch.manual_seed(0)
    return Encoder(EncoderConfig(name=name, **changes)).eval()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_authors_names_load_bit_for_bit(tmp_path: Path, layout: str, capsys: pytest.CaptureFixture[str]) -> None:
    name, changes, convert = LAYOUTS[layout]
    source = perturb(model(name, **changes))
    torch.save(convert(dict(source.model.state_dict())), tmp_path / "start.pth")
    encoder = model(name, **changes, weights=str(tmp_path / "start.pth"))
    assert same_weights(source, encoder)
    assert encoder.load_report is not None
    assert encoder.load_report.adapted == ()
    assert encoder.load_report.loaded == len(source.model.state_dict())
    assert capsys.readouterr().out == ""  # timm prints an error for every bias that it leaves out


def test_biases_that_the_model_lacks_are_not_left_out_in_silence(tmp_path: Path) -> None:
    small = {"image_size": 32, "model_args": VIT}
    source = perturb(model("vit_small_patch16_dinov3_qkvb", **small))
    torch.save(dinov3(dict(source.model.state_dict())), tmp_path / "start.pth")
    with pytest.raises(UserError, match=r"4 not in the model \(blocks.0.attn.qkv.bias, "):
        model("vit_small_patch16_dinov3", **small, weights=str(tmp_path / "start.pth"))


def test_two_layouts_in_one_file_are_refused(tmp_path: Path) -> None:
    state = dict(build("vit_tiny_patch16_224").model.state_dict())
    half = {key: value for key, value in state.items() if key.startswith(("blocks.2", "blocks.3"))}
    mixtures = {
        "chunks.pth": {k: v for k, v in state.items() if k not in half}
        | {f"blocks.1.{k[7:]}": v for k, v in half.items()},
        "twice.pth": state | {f"blocks.1.{k[7:]}": v for k, v in half.items()},
        "transformers.pth": half
        | {"embeddings.patch_embeddings.projection.weight": state["patch_embed.proj.weight"]}
        | {"layers.0.layernorm_before.weight": state["norm.weight"]},
    }
    for name, content in mixtures.items():
        torch.save(content, tmp_path / name)
        with pytest.raises(UserError, match="mixes the names of two layouts"):
            build("vit_tiny_patch16_224", weights=str(tmp_path / name), allow_partial=True)


def test_names_of_the_models_own_kind_stay() -> None:
    """Some timm models count their blocks as chunks do."""
    names = ["blocks.0.1.conv.weight", "head.weight"]
    assert rename(names, names) == ("", {name: name for name in names})
