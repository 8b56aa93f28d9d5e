"""What frameworks need is checked before a run, and masks are fitted to the encoder."""

from dataclasses import replace
from typing import Any

import pytest

from repre.config import RunConfig
from repre.data.views.view_recipes import MaskConfig, ViewsConfig
from repre.errors import UserError
from repre.frameworks import Needs, PixelsConfig
from repre.frameworks.base import FrameworkConfig
from repre.models.encoder import Encoder
from repre.models.needs import fit_masks
from repre.models.repre import ReconstructionConfig
from tests import tiny

RANDOM = MaskConfig(kind="random", ratio=(0.5, 0.5))


@pytest.mark.parametrize(
    ("framework", "views", "reconstruction", "message"),
    [
        (None, {"n_global": 1}, {}, "moco-v3 compares two global views; set it to 2"),
        (None, {"n_local": 2}, {}, "moco-v3 takes global views only; set it to 0 or use dino"),
        (PixelsConfig(), {}, {"weight": 0.0}, "pixels trains by the reconstruction branch alone"),
        (PixelsConfig(), {}, {"end_fraction": 0.5}, "end_fraction 1"),
        (PixelsConfig(), {}, {"balance": 1.0}, "balance 0"),
        (PixelsConfig(), {}, {"masked_forward": "separate"}, "set reconstruction.masked_forward to shared"),
    ],
)
def test_a_run_without_what_its_framework_needs_is_refused(
    framework: FrameworkConfig | None, views: dict[str, Any], reconstruction: dict[str, Any], message: str
) -> None:
    changes: dict[str, Any] = {} if framework is None else {"framework": framework}
    with pytest.raises(UserError, match=message):
        RunConfig(views=ViewsConfig(**views), reconstruction=ReconstructionConfig(**reconstruction), **changes)


def test_masks_and_a_token_only_where_something_uses_them() -> None:
    views = ViewsConfig(mask=RANDOM)
    branch, plain = (
        RunConfig(views=views, reconstruction=ReconstructionConfig(weight=weight)) for weight in (1.0, 0.0)
    )
    assert (branch.rendered_views.mask.kind, branch.mask_token) == ("random", True)
    assert (plain.rendered_views.mask.kind, plain.mask_token) == ("none", False)
    pixels = replace(branch, reconstruction=ReconstructionConfig(masked_input="pixels"))
    assert (pixels.rendered_views.mask.kind, pixels.mask_token) == ("random", False)
    assert not RunConfig().mask_token


@pytest.mark.parametrize(("encoder", "patch"), [("vit", 8), ("swin", 32)])
def test_a_hidden_patch_is_a_patch_token_unless_it_is_set(encoder: str, patch: int) -> None:
    built = Encoder(tiny.ENCODERS[encoder], mask_token=True)
    views = ViewsConfig(size=tiny.SIDES[encoder], mask=RANDOM)
    assert fit_masks(views, built, Needs()).mask.patch == patch
    assert fit_masks(views, built, Needs(patches=True, masks=True)).mask.patch == patch
    assert fit_masks(replace(views, mask=MaskConfig()), built, Needs()).mask.patch is None
    larger = replace(views, mask=replace(RANDOM, patch=16))
    assert fit_masks(larger, built, Needs()) == larger


def test_hidden_patches_consist_of_whole_patches() -> None:
    vit, swin = (Encoder(tiny.ENCODERS[name], mask_token=True) for name in ("vit", "swin"))
    views = ViewsConfig(size=64, mask=replace(RANDOM, patch=16))
    fit_masks(views, swin, Needs())  # four tokens of its patch embedding in each direction
    with pytest.raises(UserError, match=r"patch is 16 pixels.*hidden patch tokens of 32 pixels; leave it out"):
        fit_masks(views, swin, Needs(patches=True, masks=True))
    with pytest.raises(UserError, match=r"patch is 4 pixels.*multiple of the 8 pixels of a patch of vit"):
        fit_masks(replace(views, size=32, mask=replace(RANDOM, patch=4)), vit, Needs())
    pixels = Encoder(tiny.ENCODERS["vit"])
    assert fit_masks(replace(views, mask=replace(RANDOM, patch=4)), pixels, Needs()).mask.patch == 4
