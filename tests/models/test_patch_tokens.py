"""Patch tokens after the final norm, and tokens hidden behind the mask token, over a table of timm models."""

import copy

import pytest
import torch
from torch import nn

from repre.errors import UserError
from repre.models.encoder import Encoder, EncoderConfig
from repre.utils.step_compile import compiled_step
from tests.models.timm_models import EACH_MODEL, MODELS, build, draw_images, perturb

pytestmark = pytest.mark.usefixtures("one_thread")
REFUSED = dict.fromkeys(("convnext_atto", "resnet18"), "no patch embedding that gives tokens")
REFUSED |= dict.fromkeys(("xcit_nano_12_p16_224", "pvt_v2_b0", "mvitv2_tiny", "hiera_tiny_224"), "overlap")
VIT_AND_SWIN = pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])


def build_masked(name: str) -> Encoder:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(name=name, **MODELS[name][0]), mask_token=True).eval()
    return perturb(encoder)


def masks_for(encoder: Encoder) -> torch.Tensor:
    """Masks of single patch tokens, bool [2, rows, columns]; the second image has none."""
    rows, columns = encoder.check_size(*encoder.image_size).patches.grid
    masks = torch.rand(2, rows, columns, generator=torch.Generator().manual_seed(3)) < 0.5
    masks[0, 0, 0], masks[0, -1, -1], masks[1] = True, False, False
    return masks


@EACH_MODEL
def test_patch_tokens_are_the_last_map_after_the_final_norm(name: str) -> None:
    """The oracle normalizes the last map cell by cell, with the norm that the model applies to its tokens or their mean."""
    encoder = perturb(build(name))
    for size in [encoder.image_size, *MODELS[name][1]]:
        x = draw_images(size)
        with torch.no_grad():
            both, alone = encoder(x, patches=True), encoder(x, maps=False, patches=True)
            cells = both.maps[-1].flatten(2).mT
            norms = (getattr(encoder.model, norm, None) for norm in ("norm", "fc_norm"))
            if name.startswith("xcit"):  # its last blocks move class and patch tokens on behind the map
                norms = iter(())
            for norm in norms:
                cells = cells if norm is None or isinstance(norm, nn.Identity) else norm(cells)
        assert both.patches is not None
        assert both.patches.shape == (2, cells.shape[1], encoder.patch_dim)
        rows, columns = encoder.check_size(*size).patches.grid
        assert rows * columns == cells.shape[1]
        assert {abs(rows - size[0] / encoder.patch_stride) < 1, abs(columns - size[1] / encoder.patch_stride) < 1} == {
            True
        }
        torch.testing.assert_close(alone.patches, both.patches, rtol=0, atol=1e-6)
        if not name.startswith("xcit"):
            torch.testing.assert_close(both.patches, cells, rtol=1e-5, atol=1e-5)


@EACH_MODEL
def test_a_mask_token_hides_the_pixels_of_masked_patches_alone(name: str) -> None:
    if name in REFUSED:
        with pytest.raises(UserError, match=rf"{REFUSED[name]}.*masked_input to pixels"):
            build_masked(name)
        return
    encoder = build_masked(name)
    masks, x = masks_for(encoder), draw_images(encoder.image_size)
    pixels = (
        masks.repeat_interleave(x.shape[2] // masks.shape[1], 1).repeat_interleave(x.shape[3] // masks.shape[2], 2)
    )[:, None]
    with torch.no_grad():
        plain, hidden = encoder(x), encoder(x, masks=masks)
        torch.testing.assert_close(hidden.embedding[1], plain.embedding[1])  # nothing of it is hidden
        assert not torch.allclose(hidden.embedding[0], plain.embedding[0])
        other = encoder(torch.where(pixels, torch.randn_like(x), x), masks=masks)
        torch.testing.assert_close(other.embedding, hidden.embedding)
        elsewhere = encoder(torch.where(pixels, x, x + 1), masks=masks)
        assert not torch.allclose(elsewhere.embedding[0], hidden.embedding[0])
        after = encoder(x)
    assert torch.equal(after.embedding, plain.embedding), "masks act on the pass that got them alone"


@VIT_AND_SWIN
def test_the_mask_token_learns_and_a_copy_has_its_own(name: str) -> None:
    encoder = build_masked(name)
    twin = copy.deepcopy(encoder)
    masks, x = masks_for(encoder), draw_images(encoder.image_size)
    encoder(x, masks=masks).embedding.square().sum().backward()
    assert encoder.mask_token is not None
    assert twin.mask_token is not None
    assert encoder.mask_token.token.grad.abs().max() > 0
    assert twin.mask_token.token.grad is None
    with torch.no_grad():
        twin.mask_token.token.add_(1.0)
        assert not torch.allclose(twin(x, masks=masks).embedding[0], encoder(x, masks=masks).embedding[0])
        torch.testing.assert_close(twin(x).embedding, encoder(x).embedding)


@VIT_AND_SWIN
def test_masks_and_patch_tokens_in_one_pass_and_compiled(name: str) -> None:
    torch.compiler.reset()
    encoder = build_masked(name)
    views = [draw_images(encoder.image_size), 2 * draw_images(encoder.image_size)]
    masks = [masks_for(encoder), masks_for(encoder).flip(0)]
    with torch.no_grad():
        expected = [encoder(view, patches=True, masks=mask) for view, mask in zip(views, masks)]
        passes = [encoder.encode(views, patches=True, masks=masks)]
        encoder.encode_step.compile(backend="aot_eager")
        with compiled_step():
            plain = encoder.encode(views, maps=False)
            passes.append(encoder.encode(views, patches=True, masks=masks))
    for view, image in zip(plain, views):
        torch.testing.assert_close(view.embedding, encoder(image).embedding, rtol=1e-5, atol=1e-5)
    for features in passes:
        for view, reference in zip(features, expected, strict=True):
            torch.testing.assert_close(view.embedding, reference.embedding, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(view.patches, reference.patches, rtol=1e-5, atol=1e-5)


def test_a_mask_token_draws_nothing() -> None:
    plain, masked = build("vit_tiny_patch16_224"), None
    torch.manual_seed(0)
    masked = Encoder(EncoderConfig(name="vit_tiny_patch16_224", **MODELS["vit_tiny_patch16_224"][0]), mask_token=True)
    own = masked.state_dict()
    assert own.keys() - plain.state_dict().keys() == {"mask_token.token"}
    assert all(torch.equal(value, own[name]) for name, value in plain.state_dict().items())
    assert masked.layer_ids()["mask_token.token"] == 0
