"""Start weights: from every usual wrapper and file, fitted to the model, or refused with the reason."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from timm.models import _builder, adapt_input_conv
from torch import Tensor, nn

from repre.errors import UserError
from repre.models.encoder import Encoder
from repre.models.timm_folder import save_encoder
from repre.models.timm_model import create_meta_model, create_timm_model
from repre.models.weight_files import read_weights
from repre.models.weights import check_heads, heads
from tests import tiny
from tests.models.timm_models import PYRAMID, THREE_MODELS, VIT, build, draw_images, perturb, same_weights

pytestmark = pytest.mark.usefixtures("one_thread")


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


def test_patches_positions_and_channels_are_adapted_as_timm_does(tmp_path: Path) -> None:
    """From a 4 x 4 grid of 16 pixels and 3 channels to 4 x 12 patches of 8 pixels and 4 channels."""
    source = perturb(build("vit_tiny_patch16_224")).model
    torch.save({"teacher": {f"backbone.{k}": v for k, v in source.state_dict().items()}}, tmp_path / "start.pth")
    encoder = build(
        "vit_tiny_patch16_224", image_size=(32, 96), patch_size=8, channels=4, weights=str(tmp_path / "start.pth")
    )
    kernel = resample_patch_embed(source.patch_embed.proj.weight.detach(), [8, 8])
    positions = resample_abs_pos_embed(source.pos_embed.detach(), [4, 12], num_prefix_tokens=1)
    assert torch.equal(encoder.model.patch_embed.proj.weight, adapt_input_conv(4, kernel))
    assert torch.equal(encoder.model.pos_embed, positions)
    assert str(encoder.load_report) == (
        f"encoder.weights {tmp_path / 'start.pth'}: timm's names under teacher.backbone; 54 tensors loaded, 0 missing, "
        "0 unused, position embedding resampled from 4 x 4 to 4 x 12, patch kernel resampled from 16 x 16 to 8 x 8, "
        "channels adapted from 3 to 4"
    )


def test_weights_of_other_heads_are_refused(tmp_path: Path) -> None:
    """Their shapes are the same; the config beside the weights tells, of this project, timm and transformers."""
    save_encoder(build("vit_tiny_patch16_224"), tmp_path / "ours")
    save_file(dict(build("vit_tiny_patch16_224").model.state_dict()), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"num_attention_heads": 3, "image_size": 64}')
    fixes = {
        tmp_path / "ours": "give .* --encoder.model-args.num-heads 3",
        tmp_path: r"set encoder\.model_args\.num_heads",
    }
    for folder, fix in fixes.items():
        build("vit_tiny_patch16_224", weights=str(folder))
        with pytest.raises(UserError, match=f"trained with 3 attention heads in block 0.*has 6; {fix}"):
            build("vit_tiny_patch16_224", weights=str(folder), model_args=VIT | {"num_heads": 6})


def test_relative_positions_of_other_windows_are_resampled(tmp_path: Path) -> None:
    name = "swin_tiny_patch4_window7_224"
    torch.save(perturb(build(name)).model.state_dict(), tmp_path / "start.pth")
    larger = build(name, model_args=PYRAMID | {"window_size": 8}, weights=str(tmp_path / "start.pth"))
    assert larger.load_report is not None
    assert larger.load_report.adapted == ("2 relative position tables resampled",)


def test_a_file_of_another_grid_that_is_not_square_needs_its_size(tmp_path: Path) -> None:
    state = perturb(build("vit_tiny_patch16_224", image_size=(32, 128))).model.state_dict()
    torch.save(state | {"pos_embed": state["pos_embed"][:, :16]}, tmp_path / "start.pth")  # 15 patches
    with pytest.raises(UserError, match=r"1 of another shape \(pos_embed\)"):
        build("vit_tiny_patch16_224", weights=str(tmp_path / "start.pth"))


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_truncated_weights_are_refused(tmp_path: Path, suffix: str) -> None:
    path, state = tmp_path / f"start.{suffix}", dict(build("vit_tiny_patch16_224").model.state_dict())
    torch.save(state, path) if suffix == "pth" else save_file(state, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="cannot be read as weights"):
        build("vit_tiny_patch16_224", weights=str(path))


def test_positions_that_the_model_lacks_are_of_another_model(tmp_path: Path) -> None:
    """Weights without a place in the model would be lost in silence: only heads and decoders may be."""
    state = perturb(build("vit_tiny_patch16_224")).model.state_dict()
    torch.save(state | {"norm_pre.weight": torch.ones(48)}, tmp_path / "start.pth")
    with pytest.raises(UserError, match=r"1 not in the model \(norm_pre.weight\)"):
        build("vit_tiny_patch16_224", weights=str(tmp_path / "start.pth"))


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """What timm downloads, instead of a download."""
    content: dict[str, Tensor] = {}
    monkeypatch.setattr(_builder, "load_state_dict_from_hf", lambda *_, **__: dict(content))
    return content


def test_published_weights_are_adapted_and_reported(published: dict[str, Tensor]) -> None:
    source = perturb(build("vit_tiny_patch16_224"))
    published |= source.model.state_dict() | {"head.weight": torch.zeros(1000, 48), "head.bias": torch.zeros(1000)}
    assert same_weights(source, build("vit_tiny_patch16_224", weights="hub"))
    adapted = build("vit_tiny_patch16_224", image_size=(32, 96), patch_size=8, channels=4, weights="hub")
    assert str(adapted.load_report) == (
        "encoder.weights hub, vit_tiny_patch16_224.augreg_in21k_ft_in1k: timm's published weights; 54 tensors loaded, "
        "0 missing, 2 unused, position embedding resampled from 4 x 4 to 4 x 12, patch kernel resampled from 16 x 16 to "
        "8 x 8, channels adapted from 3 to 4; unused: head.* (2)"
    )


def test_published_weights_of_fewer_blocks_are_refused(published: dict[str, Tensor]) -> None:
    """timm would leave the blocks that it has no weights for at random init."""
    source = perturb(build("vit_tiny_patch16_224"))
    published |= source.model.state_dict()
    deeper = {"model_args": VIT | {"depth": 5}, "weights": "hub"}
    with pytest.raises(UserError, match=r"hub does not match vit_tiny_patch16_224: 12 missing \(blocks.4.norm1.weight"):
        build("vit_tiny_patch16_224", **deeper)
    with pytest.warns(UserWarning, match="54 tensors loaded, 12 missing, 0 unused; loaded in part: 12 missing"):
        partial = build("vit_tiny_patch16_224", **deeper, allow_partial=True)
    assert same_weights(source.model.blocks[3], partial.model.blocks[3])


@pytest.mark.parametrize("framework", tiny.FRAMEWORKS)
def test_teacher_and_student_start_alike(tmp_path: Path, framework: str) -> None:
    source = perturb(Encoder(tiny.ENCODERS["vit"])).model.state_dict()
    torch.save(source, tmp_path / "start.pth")
    model = tiny.tiny_model(framework, "vit", weights=str(tmp_path / "start.pth"))
    encoders = [module for module in model.modules() if isinstance(module, Encoder)]
    assert len(encoders) == (1 if framework in ("simclr", "pixels") else 2)
    for encoder in encoders:
        state = encoder.model.state_dict()
        assert all(torch.equal(state[key], value) for key, value in source.items())


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
    with pytest.raises(UserError, match="holds no parameter of resnet18, but blocks"):  # nothing fits
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


def test_other_heads_than_those_of_the_weights_are_refused() -> None:
    """Their weights have the same shapes, so timm would load them."""
    published = create_meta_model("vit_tiny_patch16_224")
    same, other = (create_timm_model("vit_tiny_patch16_224", arguments) for arguments in ({}, {"num_heads": 6}))
    check_heads(heads(published), heads(same), source="hub")
    with pytest.raises(UserError, match=r"hub: these weights were trained with 3 attention heads.*encoder has 6"):
        check_heads(heads(published), heads(other), source="hub")
