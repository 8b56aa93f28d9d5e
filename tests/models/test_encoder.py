"""The contract of the encoder, over a table of timm models: one line per model."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from repre.errors import UserError
from repre.models.encoder import Encoder, EncoderConfig, read_weights

VIT = {"embed_dim": 48, "depth": 4, "num_heads": 3}
PYRAMID = {"embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 2)}
# Name of the model: config (cut down to be fast, where its arguments allow), other sizes it takes, sizes it refuses.
MODELS: dict[str, tuple[dict[str, Any], list[tuple[int, int]], list[tuple[int, int]]]] = {
    "vit_tiny_patch16_224": ({"image_size": 64, "model_args": VIT}, [(96, 32)], [(40, 64)]),
    "deit3_small_patch16_224": ({"image_size": 64, "model_args": VIT}, [(32, 96)], [(40, 64)]),
    "vit_small_patch14_reg4_dinov2": ({"image_size": (56, 84), "model_args": VIT}, [(28, 56)], [(32, 32)]),
    "eva02_tiny_patch14_224": ({"image_size": 56, "model_args": VIT}, [(28, 84)], [(32, 32)]),
    "vit_small_patch16_rope_224": ({"image_size": 64, "model_args": VIT}, [(32, 96)], [(40, 64)]),
    "xcit_nano_12_p16_224": ({"image_size": 64, "model_args": {"depth": 4}}, [(96, 32)], [(72, 72)]),
    "swin_tiny_patch4_window7_224": ({"image_size": 64, "model_args": PYRAMID | {"window_size": 4}}, [(96, 40)], []),
    "swinv2_tiny_window8_256": ({"image_size": 64, "model_args": PYRAMID | {"window_size": 4}}, [(96, 40)], []),
    "pvt_v2_b0": ({"image_size": 64}, [(96, 40)], []),
    "mvitv2_tiny": ({"image_size": 64}, [], [(32, 32), (96, 64)]),
    "hiera_tiny_224": ({"image_size": 64}, [], [(96, 96)]),
    "convnext_atto": ({"image_size": 64}, [(100, 40)], []),
    "resnet18": ({"image_size": 64}, [(100, 40)], []),
}
FLAT = {"vit_tiny_patch16_224", "deit3_small_patch16_224", "vit_small_patch14_reg4_dinov2", "eva02_tiny_patch14_224"}
FLAT |= {"vit_small_patch16_rope_224", "xcit_nano_12_p16_224"}
EACH = pytest.mark.parametrize("name", MODELS)
FEW = pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_atto"])


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Models this small only lose by sharing their work among threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build(name: str, **changes: Any) -> Encoder:
    torch.manual_seed(0)
    return Encoder(EncoderConfig(name=name, **(MODELS[name][0] | changes))).eval()


def images(size: tuple[int, int], *, channels: int = 3) -> Tensor:
    return torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(1))


def _training(encoder: Encoder) -> Encoder:
    """In training, but for normalization over the batch, which sees other images in a piece and is refused there."""
    for module in encoder.train().modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    return encoder


@EACH
def test_drop_path_of_a_piece_is_that_of_the_whole_batch(name: str) -> None:
    if name == "resnet18":
        pytest.skip("has no stochastic depth")
    encoder = _training(spread(build(name, drop_path=0.5)).double())
    batch = torch.randn(6, 3, *encoder.image_size, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        torch.manual_seed(2)
        whole = encoder(batch)
        assert not torch.allclose(whole.embedding, encoder.eval()(batch).embedding)
        encoder.batch_slice.show(2, 5, total=6, device=batch.device)
        torch.manual_seed(2)
        piece = _training(encoder)(batch[2:5])
    torch.testing.assert_close(piece.embedding, whole.embedding[2:5], rtol=1e-9, atol=1e-9)
    for a, b in zip(piece.maps, whole.maps):
        torch.testing.assert_close(a, b[2:5], rtol=1e-9, atol=1e-9)


def spread(encoder: Encoder) -> Encoder:
    """Moves every parameter off its start, where norms and layer scales may hide a wrong order."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return encoder


# ------------------------------------------------------------------------------------------------- features


@EACH
def test_one_pass_gives_timms_embedding_and_maps_of_the_promised_shapes(name: str) -> None:
    encoder = spread(build(name))
    for size in [encoder.image_size, *MODELS[name][1]]:
        x = images(size)
        with torch.no_grad():
            features, plain, short = encoder(x), encoder.model(x), encoder(x, maps=False)
        torch.testing.assert_close(features.embedding, plain, rtol=0, atol=1e-6)
        torch.testing.assert_close(short.embedding, plain, rtol=0, atol=1e-6)
        assert features.embedding.shape == (2, encoder.embedding_dim)
        assert short.maps == []
        assert [found.shape[1] for found in features.maps] == encoder.widths
        assert len(encoder.out_indices) == len(encoder.strides) == len(features.maps) == 4
        for found, stride in zip(features.maps, encoder.strides):
            assert all(cells in (side // stride, -(-side // stride)) for cells, side in zip(found.shape[2:], size))
    assert len(set(encoder.strides)) == (1 if name in FLAT else 4)


@EACH
def test_gradient_reaches_every_parameter(name: str) -> None:
    encoder = spread(build(name, drop_path=0.0)).train()
    features = encoder(images(encoder.image_size))
    (features.embedding.square().sum() + sum(found.square().mean() for found in features.maps)).backward()
    silent = [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not silent


@pytest.mark.parametrize("name", [name for name, (_, _, refused) in MODELS.items() if refused])
def test_sizes_that_a_model_refuses_are_named(name: str) -> None:
    encoder = build(name)
    for size in MODELS[name][2]:
        words = rf"cannot take images of {size[0]} x {size[1]}(.*multiple of|.*built for)|timm refuses"
        with pytest.raises(UserError, match=words):
            encoder(images(size))


def test_a_refusal_says_the_divisor_or_the_only_size() -> None:
    with pytest.raises(UserError, match="use a multiple of 16"):
        build("vit_tiny_patch16_224", image_size=100)
    with pytest.raises(UserError, match="of the size that it was built for, 64 x 64"):
        build("hiera_tiny_224")(images((96, 96)))


@pytest.mark.parametrize("channels", [1, 4])
@FEW
def test_any_number_of_channels(name: str, channels: int) -> None:
    encoder = build(name, channels=channels)
    assert encoder(images((64, 64), channels=channels)).embedding.isfinite().all()


def test_patch_size_changes_the_strides() -> None:
    assert build("vit_tiny_patch16_224", patch_size=8).strides == [8] * 4
    assert build("swin_tiny_patch4_window7_224", patch_size=2).strides == [2, 4, 8, 16][1:]
    with pytest.raises(UserError, match="a patch size of its own"):
        build("resnet18", patch_size=8)


def test_levels() -> None:
    x = images((64, 64))
    every, some = (
        build("vit_tiny_patch16_224", out_indices=(0, 1, 2, 3)),
        build("vit_tiny_patch16_224", out_indices=(1, 2)),
    )
    for mine, theirs in zip(some(x).maps, every(x).maps[1:3], strict=True):
        assert torch.equal(mine, theirs)
    assert torch.equal(some(x).embedding, every(x).embedding)  # a last block that gives no map still runs
    hiera = build("hiera_tiny_224", out_indices=(0,))
    assert torch.equal(hiera(x).embedding, hiera.model(x))
    with torch.device("meta"):
        assert Encoder("vit_base_patch16_224").out_indices == [2, 5, 8, 11]
    with pytest.raises(UserError, match="has levels 0 to 3"):
        build("vit_tiny_patch16_224", out_indices=(4,))
    for wrong in ((), (2, 1), (1, 1)):
        with pytest.raises(UserError, match="rising order"):
            EncoderConfig(out_indices=wrong)


def test_drop_path_acts_in_training_only() -> None:
    encoder = build("vit_tiny_patch16_224", drop_path=0.5)
    x = images((64, 64))
    assert torch.equal(encoder(x).embedding, encoder(x).embedding)
    encoder.train()
    assert not torch.equal(encoder(x).embedding, encoder(x).embedding)


@EACH
def test_grad_checkpointing_changes_no_gradient(name: str) -> None:
    plain = spread(build(name)).train()
    again = copy.deepcopy(plain)
    again._checkpoint_blocks()
    for encoder in (plain, again):
        features = encoder(images(encoder.image_size))
        (features.embedding.square().sum() + sum(found.square().mean() for found in features.maps)).backward()
    for (n, a), b in zip(plain.named_parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5, msg=n)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_double_precision_and_autocast(name: str) -> None:
    encoder = build(name)
    x = images((64, 64))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        low = encoder(x).embedding
    plain, wide = encoder(x).embedding, encoder.double()(x.double()).embedding
    assert wide.dtype == torch.float64
    torch.testing.assert_close(plain, wide.float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(low.float(), plain, rtol=0.1, atol=0.1)


@FEW
def test_building_and_looking_at_sizes_draws_no_more_than_timm(name: str) -> None:
    encoder = build(name)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    theirs = timm.create_model(name, num_classes=0, **encoder._args)
    assert torch.equal(state, torch.get_rng_state())
    for mine, other in zip(encoder.model.state_dict().values(), theirs.state_dict().values(), strict=True):
        assert torch.equal(mine, other)
    encoder.check_size(128, 128)
    assert torch.equal(state, torch.get_rng_state())


def test_positions_and_tokens_are_not_decayed() -> None:
    dinov2 = build("vit_small_patch14_reg4_dinov2")
    assert {"model.pos_embed", "model.cls_token", "model.reg_token"} <= set(dinov2.no_weight_decay)
    assert any("relative_position_bias_table" in n for n in build("swin_tiny_patch4_window7_224").no_weight_decay)


def test_frozen_patch_embedding() -> None:
    encoder = build("vit_tiny_patch16_224", freeze_patch_embed=True)
    frozen = [n for n, p in encoder.named_parameters() if not p.requires_grad]
    assert frozen == ["model.patch_embed.proj.weight", "model.patch_embed.proj.bias"]
    with pytest.raises(UserError, match="no patch embedding"):
        build("resnet18", freeze_patch_embed=True)


# ------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"name": "vit_smal_patch16_224"}, "no model 'vit_smal_patch16_224'; did you mean 'vit_small_patch16_224'"),
        ({"name": "vit_small_patch16_224.augreg_in1"}, "no weights 'augreg_in1'.*did you mean 'augreg_in1k'"),
        ({"name": "resnet18", "model_args": {"wings": 2}}, r"timm refuses resnet18\(.*wings=2.*unexpected keyword"),
        ({"name": "vit_tiny_patch16_224", "model_args": {"num_heads": 5}}, "timm refuses .*num_heads=5"),
        ({"name": "vgg11", "drop_path": 0.1}, "no stochastic depth"),
        ({"name": "vgg11", "grad_checkpointing": True}, "grad_checkpointing"),
        ({"drop_path": 1.0}, "drop_path must lie"),
        ({"channels": 0}, "channels must be at least 1"),
        ({"image_size": 0}, "image_size must be at least 1"),
        ({"patch_size": 0}, "patch_size must be at least 1"),
    ],
)
def test_refusals_give_the_reason(config: dict[str, Any], words: str) -> None:
    with torch.device("meta"), pytest.raises(UserError, match=words):
        Encoder(EncoderConfig(**config))


def test_a_model_without_intermediate_features_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: nn.Linear(1, 1))
    with pytest.raises(
        UserError, match=r"no intermediate features .*forward_intermediates, forward_head, feature_info"
    ):
        Encoder("resnet18")


# -------------------------------------------------------------------------------------------------- weights


def same(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


WRAP: dict[str, Callable[[dict[str, Tensor]], dict[str, Any]]] = {
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


@pytest.mark.parametrize("wrap", WRAP)
def test_weights_are_found_in_the_usual_wrappers(tmp_path: Path, wrap: str) -> None:
    source = spread(build("vit_tiny_patch16_224"))
    torch.save(WRAP[wrap](dict(source.model.state_dict())), tmp_path / "start.pth")
    assert same(source, build("vit_tiny_patch16_224", weights=str(tmp_path / "start.pth")))


@FEW
def test_weights_of_a_safetensors_file(tmp_path: Path, name: str) -> None:
    source = spread(build(name))
    save_file(dict(source.model.state_dict()), tmp_path / "start.safetensors")
    assert same(source, build(name, weights=str(tmp_path / "start.safetensors")))


def test_weights_of_other_positions_and_channels_are_adapted(tmp_path: Path) -> None:
    source = spread(build("vit_tiny_patch16_224", image_size=(32, 128)))
    source.save(tmp_path)
    larger = build("vit_tiny_patch16_224", image_size=(64, 96), weights=str(tmp_path))
    patches = source.model.pos_embed[:, 1:].unflatten(1, (2, 8)).permute(0, 3, 1, 2)
    expected = nn.functional.interpolate(patches, (4, 6), mode="bicubic", antialias=True)
    torch.testing.assert_close(larger.model.pos_embed[:, 1:].transpose(1, 2), expected.flatten(2), rtol=0, atol=1e-5)
    gray = build("vit_tiny_patch16_224", image_size=(32, 128), channels=1, weights=str(tmp_path))
    x = images((32, 128), channels=1)
    torch.testing.assert_close(gray(x).embedding, source(x.expand(-1, 3, -1, -1)).embedding, rtol=1e-4, atol=1e-4)


def test_weights_of_another_model_are_refused_with_counts(tmp_path: Path) -> None:
    source = spread(build("vit_tiny_patch16_224"))
    path = str(tmp_path / "start.safetensors")
    save_file({k.replace("blocks.3", "blocks.9"): v for k, v in source.model.state_dict().items()}, path)
    with pytest.raises(UserError, match=r"12 missing \(blocks.3.\S+, .*12 not in the model \(blocks.9.*allow-partial"):
        build("vit_tiny_patch16_224", weights=path)
    with pytest.warns(UserWarning, match=r"loaded in part; 12 missing"):
        partial = build("vit_tiny_patch16_224", weights=path, allow_partial=True)
    assert same(source.model.blocks[2], partial.model.blocks[2])
    assert not same(source.model.blocks[3], partial.model.blocks[3])
    with pytest.raises(UserError, match="does not match"):  # nothing fits
        build("resnet18", weights=path, allow_partial=True)


def test_unreadable_weights_are_refused(tmp_path: Path) -> None:
    torch.save({"model": nn.Linear(1, 1)}, tmp_path / "pickle.pth")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    for name in ("broken.pth", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"nothing")
    for name, words in {
        "pickle.pth": "never unpickled",
        "empty.pth": "holds no tensors",
        "broken.pth": "cannot be read",
        "broken.safetensors": "cannot be read",
        "absent.pth": "there is no file",
    }.items():
        with pytest.raises(UserError, match=words):
            read_weights(tmp_path / name)


# --------------------------------------------------------------------------------------------- save and load


CHANGED = {"vit_tiny_patch16_224": (96, 64), "vit_small_patch14_reg4_dinov2": (56, 84), "convnext_atto": (96, 64)}
CHANGED |= {"swin_tiny_patch4_window7_224": (96, 64), "eva02_tiny_patch14_224": (56, 84), "mvitv2_tiny": (96, 96)}


@pytest.mark.parametrize(
    ("name", "changes"),
    [(name, {}) for name in MODELS] + [(name, {"channels": 4, "image_size": size}) for name, size in CHANGED.items()],
)
def test_timm_loads_a_saved_encoder_in_one_line(tmp_path: Path, name: str, changes: dict[str, Any]) -> None:
    mine = spread(build(name, **changes))
    channels = changes.get("channels", 3)
    mine.save(tmp_path, mean=[0.5] * channels, std=[0.25] * channels)
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    back = Encoder.load(tmp_path).eval()
    for size in [mine.image_size, *MODELS[name][1][:1]]:
        x = images(size, channels=channels)
        with torch.no_grad():
            assert torch.equal(theirs(x), mine(x).embedding)
            assert torch.equal(back(x).embedding, mine(x).embedding)
    assert (back.out_indices, back.strides, back.image_size) == (mine.out_indices, mine.strides, mine.image_size)
    assert theirs.pretrained_cfg["mean"] == [0.5] * channels
    assert tuple(theirs.pretrained_cfg["input_size"]) == (channels, *mine.image_size)
    assert load_file(tmp_path / "model.safetensors").keys() == mine.model.state_dict().keys()
    assert not list(tmp_path.glob("*.tmp"))


@FEW
def test_timm_changes_the_ends_of_a_saved_encoder(tmp_path: Path, name: str) -> None:
    spread(build(name)).save(tmp_path)
    other = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=7, in_chans=1).eval()
    assert other(images((64, 64), channels=1)).shape == (2, 7)


def test_a_tag_and_a_patch_size_survive_saving(tmp_path: Path) -> None:
    mine = Encoder(
        EncoderConfig(
            name="vit_tiny_patch16_224.augreg_in21k",
            image_size=32,
            patch_size=8,
            model_args={**VIT, "global_pool": "avg"},
        )
    ).eval()
    mine.save(tmp_path)
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(theirs(images((32, 32))), mine(images((32, 32))).embedding)
    assert same(Encoder.load(tmp_path), mine)


def test_load_refuses_a_folder_without_an_encoder(tmp_path: Path) -> None:
    for content in (None, "{", json.dumps({"architecture": "resnet18"})):
        if content is not None:
            (tmp_path / "config.json").write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match="holds no encoder of repre"):
            Encoder.load(tmp_path)
