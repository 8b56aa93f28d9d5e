"""The contract of the encoder, over a table of timm models."""

import copy
import inspect
from typing import Any

import pytest
import timm
import torch
from torch import nn

from repre.errors import UserError
from repre.models.encoder import Encoder, EncoderConfig
from repre.models.timm_model import RESERVED_ARGUMENTS
from repre.utils.amp import autocast
from repre.utils.step_compile import compiled_step
from tests.models.timm_models import EACH_MODEL, FLAT, MODELS, THREE_MODELS, build, draw_images, perturb, same_weights

pytestmark = pytest.mark.usefixtures("one_thread")


@EACH_MODEL
def test_one_pass_gives_timms_embedding_and_maps_of_the_promised_shapes(name: str) -> None:
    encoder = perturb(build(name))
    for size in [encoder.image_size, *MODELS[name][1]]:
        x = draw_images(size)
        with torch.no_grad():
            features, plain, short = encoder(x), encoder.model(x), encoder(x, maps=False)
        torch.testing.assert_close(features.embedding, plain, rtol=0, atol=1e-6)
        torch.testing.assert_close(short.embedding, plain, rtol=0, atol=1e-6)
        assert features.embedding.shape == (2, encoder.embedding_dim)
        assert short.maps == []
        assert [level.shape[1] for level in features.maps] == encoder.widths
        assert len(encoder.out_indices) == len(encoder.strides) == len(features.maps) == 4
        for level, stride in zip(features.maps, encoder.strides):
            assert all(cells in (side // stride, -(-side // stride)) for cells, side in zip(level.shape[2:], size))
    assert len(set(encoder.strides)) == (1 if name in FLAT else 4)


@EACH_MODEL
def test_gradient_reaches_every_parameter(name: str) -> None:
    encoder = perturb(build(name, drop_path=0.0)).train()
    features = encoder(draw_images(encoder.image_size))
    (features.embedding.square().sum() + sum(level.square().mean() for level in features.maps)).backward()
    without_gradient = [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not without_gradient


@pytest.mark.parametrize("name", [name for name, (_, _, refused) in MODELS.items() if refused])
def test_sizes_that_a_model_refuses_are_named(name: str) -> None:
    encoder = build(name)
    for size in MODELS[name][2]:
        message = rf"cannot take images of {size[0]} x {size[1]}(.*multiple of|.*built for)|timm refuses"
        with pytest.raises(UserError, match=message):
            encoder(draw_images(size))


def test_a_refusal_names_the_divisor_or_the_only_size() -> None:
    with pytest.raises(UserError, match="use a multiple of 16"):
        build("vit_tiny_patch16_224", image_size=100)
    with pytest.raises(UserError, match="the size that it was built for, 64 x 64"):
        build("hiera_tiny_224")(draw_images((96, 96)))


@pytest.mark.parametrize("channels", [1, 4])
@THREE_MODELS
def test_any_number_of_channels(name: str, channels: int) -> None:
    encoder = build(name, channels=channels)
    assert encoder(draw_images((64, 64), channels=channels)).embedding.isfinite().all()


def test_patch_size_changes_the_strides() -> None:
    assert build("vit_tiny_patch16_224", patch_size=8).strides == [8] * 4
    assert build("swin_tiny_patch4_window7_224", patch_size=2).strides == [2, 4, 8, 16][1:]
    with pytest.raises(UserError, match="the patch size of resnet18 is fixed"):
        build("resnet18", patch_size=8)


def test_out_indices_choose_the_maps() -> None:
    x = draw_images((64, 64))
    four, two = (build("vit_tiny_patch16_224", out_indices=indices)(x) for indices in ((0, 1, 2, 3), (1, 2)))
    for first, second in zip(two.maps, four.maps[1:3], strict=True):
        assert torch.equal(first, second)
    assert torch.equal(two.embedding, four.embedding)  # a last block that gives no map still runs
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
    x = draw_images((64, 64))
    assert torch.equal(encoder(x).embedding, encoder(x).embedding)
    encoder.train()
    assert not torch.equal(encoder(x).embedding, encoder(x).embedding)


@EACH_MODEL
def test_grad_checkpointing_changes_no_gradient(name: str) -> None:
    plain = perturb(build(name)).train()
    again = copy.deepcopy(plain)
    again.enable_grad_checkpointing()
    for encoder in (plain, again):
        features = encoder(draw_images(encoder.image_size))
        (features.embedding.square().sum() + sum(level.square().mean() for level in features.maps)).backward()
    for (n, a), b in zip(plain.named_parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5, msg=n)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_double_precision_and_autocast(name: str) -> None:
    encoder = build(name)
    x = draw_images((64, 64))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        low = encoder(x).embedding
    plain, wide = encoder(x).embedding, encoder.double()(x.double()).embedding
    assert wide.dtype == torch.float64
    torch.testing.assert_close(plain, wide.float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(low.float(), plain, rtol=0.1, atol=0.1)


@THREE_MODELS
def test_building_and_checking_sizes_draws_no_more_than_timm(name: str) -> None:
    encoder = build(name)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    plain = timm.create_model(name, num_classes=0, **encoder.timm_arguments)
    assert torch.equal(state, torch.get_rng_state())
    assert same_weights(encoder.model, plain)
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


def train_without_batch_norm(encoder: Encoder) -> Encoder:
    """Training mode, except for batch normalization, which would see other images in a part of the batch."""
    for module in encoder.train().modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    return encoder


@EACH_MODEL
def test_drop_path_of_a_micro_batch_is_that_of_the_whole_batch(name: str) -> None:
    if name == "resnet18":
        pytest.skip("has no stochastic depth")
    encoder = train_without_batch_norm(perturb(build(name, drop_path=0.5)).double())
    batch = torch.randn(6, 3, *encoder.image_size, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        torch.manual_seed(2)
        whole = encoder(batch)
        assert not torch.allclose(whole.embedding, encoder.eval()(batch).embedding)
        encoder.batch_slice.select(2, 5, total=6, device=batch.device)
        torch.manual_seed(2)
        part = train_without_batch_norm(encoder)(batch[2:5])
    torch.testing.assert_close(part.embedding, whole.embedding[2:5], rtol=1e-9, atol=1e-9)
    for a, b in zip(part.maps, whole.maps):
        torch.testing.assert_close(a, b[2:5], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "resnet18", "model_args": {"wings": 2}}, r"timm refuses resnet18\(.*wings=2.*unexpected keyword"),
        ({"name": "vit_tiny_patch16_224", "model_args": {"num_heads": 5}}, "timm refuses .*num_heads=5"),
        ({"name": "vgg11", "drop_path": 0.1}, "no stochastic depth"),
        ({"name": "vgg11", "grad_checkpointing": True}, "grad_checkpointing"),
        ({"model_args": {"in_chans": 1}}, r"encoder\.model_args\.in_chans cannot be set here"),
        ({"model_args": {"checkpoint_path": "x.pth"}}, r"encoder\.model_args\.checkpoint_path cannot be set here"),
        ({"drop_path": 1.0}, "drop_path must lie"),
        ({"channels": 0}, "channels must be at least 1"),
        ({"image_size": 0}, "image_size must be at least 1"),
        ({"patch_size": 0}, "patch_size must be at least 1"),
    ],
)
def test_refusals_give_the_reason(config: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(UserError, match=message):
        Encoder(EncoderConfig(**config))


@pytest.mark.parametrize("precision", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.cuda,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
            ],
        ),
    ],
)
def test_residual_sums_are_bfloat16_on_cuda_under_its_autocast_alone(device: str, precision: torch.dtype) -> None:
    """Float16 has too small a range for them. The embedding comes from the last norm, in float32."""
    encoder = copy.deepcopy(build("vit_tiny_patch16_224")).to(device)
    seen = []
    encoder.model.blocks[-1].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with autocast(torch.device(device), precision):
        features = encoder(draw_images(encoder.image_size).to(device))
    assert seen == [torch.bfloat16 if device == "cuda" and precision is torch.bfloat16 else torch.float32]
    assert features.embedding.dtype == torch.float32


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_views_are_encoded_in_one_pass_as_one_by_one(name: str) -> None:
    """Also compiled, where maps are copies with the channels last."""
    torch.compiler.reset()
    encoder = perturb(build(name))
    views = [draw_images(encoder.image_size), 2 * draw_images(encoder.image_size)]
    with torch.no_grad():
        expected = [encoder(view) for view in views]
        passes = [encoder.encode(views)]
        encoder.encode_step.compile(backend="aot_eager")
        with compiled_step():
            passes.append(encoder.encode(views))
    for features in passes:
        for view, reference in zip(features, expected, strict=True):
            torch.testing.assert_close(view.embedding, reference.embedding, rtol=1e-5, atol=1e-5)
            for level, reference_level in zip(view.maps, reference.maps, strict=True):
                torch.testing.assert_close(level, reference_level, rtol=1e-5, atol=1e-5)
    assert all(level.is_contiguous(memory_format=torch.channels_last) for view in passes[1] for level in view.maps)


def test_arguments_of_timms_factory_are_reserved() -> None:
    assert set(inspect.signature(timm.create_model).parameters) <= RESERVED_ARGUMENTS
