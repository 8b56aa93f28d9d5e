"""Maps and patch tokens after the final norm, over the table of timm models."""

import pytest
import torch
from torch import Tensor

from repre.models.encoder import Encoder
from repre.types import Features
from tests.models.timm_models import EACH_MODEL, FLAT, MODELS, build, draw_images, perturb

pytestmark = pytest.mark.usefixtures("one_thread")
NORM_IN_THE_HEAD = ("hiera_tiny_224",)
"""Models of which timm refuses normed maps."""
NORM_OF_AVERAGE = ("eva02_tiny_patch14_224",)
"""Models of which timm calls raw maps normed, because their norm stands behind the average of the tokens."""


@torch.no_grad()
def features(encoder: Encoder, x: Tensor, *, norm: bool = True) -> Features:
    return encoder(x, norm=norm, patches=True)


def as_map(patches: Tensor | None, grid: tuple[int, int]) -> Tensor:
    assert patches is not None
    return patches.unflatten(1, grid).permute(0, 3, 1, 2)


@pytest.mark.parametrize("name", [name for name in MODELS if name not in NORM_IN_THE_HEAD + NORM_OF_AVERAGE])
def test_normed_maps_are_timms(name: str) -> None:
    encoder = perturb(build(name))
    for size in [encoder.image_size, *MODELS[name][1]]:
        x = draw_images(size)
        with torch.no_grad():
            expected = encoder.model.forward_intermediates(
                x, indices=encoder.out_indices, norm=True, output_fmt="NCHW", intermediates_only=True
            )
        for level, reference in zip(features(encoder, x).maps, expected, strict=True):
            torch.testing.assert_close(level, reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NORM_IN_THE_HEAD)
def test_maps_stay_raw_where_only_the_head_has_a_norm(name: str) -> None:
    encoder = perturb(build(name))
    x = draw_images(encoder.image_size)
    with pytest.raises(AssertionError, match="not supported"):
        encoder.model.forward_intermediates(x, norm=True)
    for level, reference in zip(features(encoder, x).maps, features(encoder, x, norm=False).maps, strict=True):
        assert torch.equal(level, reference)


@EACH_MODEL
def test_the_last_normed_map_is_that_of_the_patch_tokens(name: str) -> None:
    """Not in XCiT, whose class attention changes the patch tokens behind the last map."""
    encoder = perturb(build(name))
    x = draw_images(encoder.image_size)
    normed, grid = features(encoder, x), encoder.check_size(*encoder.image_size).patches.grid
    same = torch.allclose(normed.maps[-1], as_map(normed.patches, grid), rtol=1e-5, atol=1e-5)
    assert same == (not name.startswith("xcit"))


@EACH_MODEL
def test_a_norm_leaves_the_rest_as_it_is(name: str) -> None:
    """The embedding, the patch tokens, and the maps of all but the last stage of a pyramid."""
    encoder = perturb(build(name))
    x = draw_images(encoder.image_size)
    normed, raw = features(encoder, x), features(encoder, x, norm=False)
    assert torch.equal(normed.embedding, raw.embedding)
    assert torch.equal(normed.patches, raw.patches)  # type: ignore[arg-type]
    assert [level.shape for level in normed.maps] == [level.shape for level in raw.maps]
    for level, reference in zip(normed.maps[:-1], raw.maps[:-1]):
        assert torch.equal(level, reference) == (name not in FLAT)
    assert encoder(x, norm=True).patches is None
    assert encoder(x, norm=True, maps=False).maps == []


def test_the_final_norm_of_a_vit_is_on_every_map() -> None:
    encoder = perturb(build("vit_tiny_patch16_224"))
    x = draw_images((64, 64))
    normed, raw = features(encoder, x), features(encoder, x, norm=False)
    for level, reference in zip(normed.maps, raw.maps, strict=True):
        expected = encoder.model.norm(reference.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        torch.testing.assert_close(level, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "eva02_tiny_patch14_224"])
def test_a_norm_behind_the_average_is_the_final_norm_of_every_token(name: str) -> None:
    """timm's own norm of maps is then none."""
    arguments = dict(MODELS[name][0]["model_args"])
    encoder = perturb(build(name, model_args=arguments | {"global_pool": "avg"}))
    assert isinstance(encoder.model.norm, torch.nn.Identity)
    x = draw_images(encoder.image_size)
    normed, raw = features(encoder, x), features(encoder, x, norm=False)
    for level, reference in zip(normed.maps, raw.maps, strict=True):
        expected = encoder.model.fc_norm(reference.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        torch.testing.assert_close(level, expected, rtol=1e-5, atol=1e-5)
    grid = encoder.check_size(*encoder.image_size).patches.grid
    torch.testing.assert_close(normed.maps[-1], as_map(normed.patches, grid), rtol=1e-5, atol=1e-5)


def test_a_pyramid_without_its_last_stage_has_raw_maps() -> None:
    encoder = perturb(build("swin_tiny_patch4_window7_224", out_indices=(0, 2)))
    x = draw_images((64, 64))
    normed, raw = features(encoder, x), features(encoder, x, norm=False)
    assert all(torch.equal(level, reference) for level, reference in zip(normed.maps, raw.maps, strict=True))


@pytest.mark.parametrize("name", ["efficientformer_l1", "twins_svt_small"])
def test_pyramids_whose_norm_timm_misapplies(name: str) -> None:
    """timm applies the norm of the last stage to maps of other widths, which fails."""
    torch.manual_seed(0)
    encoder = perturb(Encoder(name)).eval()
    x = draw_images((224, 224))
    normed, raw = features(encoder, x), features(encoder, x, norm=False)
    assert torch.equal(normed.maps[0], raw.maps[0])
    grid = encoder.check_size(224, 224).patches.grid
    torch.testing.assert_close(normed.maps[-1], as_map(normed.patches, grid))
