"""Every way to name an encoder gives the same encoder, and a mistake gives a message with its fix."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from repre.config import RunConfig, dump_yaml
from repre.config_values import to_dict
from repre.data.views.view_recipes import ViewsConfig
from repre.errors import UserError
from repre.models.decoder import DecoderConfig
from repre.models.encoder import Encoder
from repre.models.repre import build_model
from repre.models.resolve import load_model, resolve_encoder
from repre.models.timm_folder import save_encoder
from repre.training.checkpoint import save_checkpoint
from tests.tiny import ENCODERS, FRAMEWORKS

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=["simclr", "moco-v3"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Encoder]:
    """A stopped run with both checkpoints, and the encoder that it would export."""
    config = RunConfig(
        encoder=replace(ENCODERS["vit"], image_size=None),
        framework=FRAMEWORKS[request.param],
        decoder=DecoderConfig(dim=16),
        views=ViewsConfig(size=32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), value_range=(0.0, 4095.0)),
    )
    model = build_model(
        encoder=config.encoder_at_size,
        framework=config.framework,
        decoder=config.decoder,
        reconstruction=config.reconstruction,
        seed=3,
    )
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_yaml(config), encoding="utf-8")
    state = {"config": to_dict(config), "model": model.state_dict(), "step": 1}
    save_checkpoint(folder / "checkpoints" / "last.pt", state)
    save_checkpoint(folder / "checkpoints" / "best.pt", {"step": 1, "encoder": model.export_encoder.state_dict()})
    return folder, model.export_encoder


@torch.no_grad()
def same(first: Encoder, second: Encoder) -> bool:
    return bool(torch.equal(first.eval()(IMAGES).embedding, second.eval()(IMAGES).embedding))


def test_a_run_its_checkpoints_and_what_it_saved_are_one_encoder(run: tuple[Path, Encoder]) -> None:
    folder, encoder = run
    for spec in (folder, folder / "checkpoints" / "last.pt", folder / "checkpoints" / "best.pt"):
        resolved = resolve_encoder(str(spec))
        assert same(resolved.build(), encoder), spec
        assert resolved.folder == folder
        assert resolved.mean == pytest.approx((0.4, 0.5, 0.6))
        assert resolved.value_range == (0.0, 4095.0)
    save_encoder(encoder, folder / "encoder", mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.4], value_range=(0.0, 4095.0))
    for spec in (folder, folder / "encoder", folder / "encoder" / "model.safetensors"):
        assert same(resolve_encoder(str(spec)).build(), encoder), spec
        assert resolve_encoder(str(spec)).std == pytest.approx((0.2, 0.3, 0.4))
        assert resolve_encoder(str(spec)).value_range == (0.0, 4095.0)
    model, config = load_model(folder)
    assert same(model.export_encoder, encoder)
    assert config.views.size == 32


def test_random_takes_the_model_of_a_run_but_not_its_weights(run: tuple[Path, Encoder]) -> None:
    folder, encoder = run
    resolved = resolve_encoder(f"random:{folder}")
    assert resolved.fingerprint == "random"
    assert resolved.mean == pytest.approx((0.4, 0.5, 0.6))
    assert resolved.value_range == (0.0, 4095.0)
    assert not same(resolved.build(seed=0), encoder)
    assert same(resolved.build(seed=0), resolved.build(seed=0))
    assert not same(resolved.build(seed=0), resolved.build(seed=1))
    assert resolved.build().embedding_dim == encoder.embedding_dim


def test_the_fingerprint_follows_the_weights(run: tuple[Path, Encoder]) -> None:
    folder, encoder = run
    save_encoder(encoder, folder / "encoder")
    first = resolve_encoder(str(folder)).fingerprint
    assert first == resolve_encoder(str(folder / "encoder")).fingerprint
    with torch.no_grad():
        next(encoder.parameters()).add_(1)
    save_encoder(encoder, folder / "encoder")
    assert resolve_encoder(str(folder)).fingerprint != first


def test_arguments_in_brackets_and_weights_of_a_timm_model(tmp_path: Path) -> None:
    small = "vit_tiny_patch16_224[depth=2,embed_dim=32,num_heads=2,patch_size=8,image_size=32]"
    encoder = resolve_encoder(f"random:{small}").build()
    assert (encoder.depth, encoder.embedding_dim, encoder.strides) == (2, 32, [8, 8])
    swin = "swin_tiny_patch4_window7_224[embed_dim=16,depths=[1,1],num_heads=(1,2),window_size=4,image_size=32]"
    assert resolve_encoder(f"random:{swin}").build().widths == [16, 32]
    name = "vit_tiny_patch16_224"
    source = Encoder(name)
    save_file({k: v.contiguous() for k, v in source.model.state_dict().items()}, tmp_path / "w.safetensors")
    loaded = resolve_encoder(f"{name}={tmp_path / 'w.safetensors'}").build()
    assert torch.equal(loaded.model.blocks[0].attn.qkv.weight, source.model.blocks[0].attn.qkv.weight)
    encoder = resolve_encoder(f"random:{small}").build(seed=3)
    torch.save(encoder.model.state_dict(), tmp_path / "small.pth")
    assert same(resolve_encoder(f"{small}={tmp_path / 'small.pth'}").build(), encoder)


def test_another_size_and_drop_path_are_built(run: tuple[Path, Encoder]) -> None:
    encoder = resolve_encoder(str(run[0])).build(image_size=64, drop_path=0.3)
    assert encoder.image_size == (64, 64)
    assert encoder.config.drop_path == 0.3
    assert encoder(torch.rand(1, 3, 64, 64)).maps[0].shape[-1] == 8


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("runs/nothing", "there is no such run or file; give"),
        ("vit_tiny_patch16_225", "did you mean"),
        ("random:vit_tiny_patch16_224[depth=2", "not closed"),
        ("random:vit_tiny_patch16_224[depth]", "write the arguments as"),
        ("vit_tiny_patch16_224=nothing.pth", "there is no file nothing.pth"),
        ("{tmp}", "neither a run nor an encoder .*; give"),
        ("{tmp}/a.safetensors", "write timm's name before it: NAME=.*a.safetensors"),
        (
            "{tmp}/saved/other.safetensors",
            "describes model.safetensors.; write .* NAME=.*other.safetensors",
        ),
        ("random:vit_tiny_patch16_224[patch_size=x]", "write the arguments as"),
        ("random:vit_tiny_patch16_224[patch_size=1.5]", "must be whole numbers"),
    ],
)
def test_mistakes_are_answered_with_a_fix(spec: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "config.json").touch()
    for name in ("a.safetensors", "saved/other.safetensors"):
        save_file({"x": torch.zeros(1)}, tmp_path / name)
    with pytest.raises(UserError, match=message):
        resolve_encoder(spec.replace("{tmp}", str(tmp_path)))


def test_a_misspelled_timm_name_at_random_is_refused_when_it_is_built() -> None:
    with pytest.raises(UserError, match="did you mean"):
        resolve_encoder("random:vit_tiny_patch16_225").build()
