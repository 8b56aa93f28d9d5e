"""What a framework needs of views, branch and encoder: the checks before a run, and masks that fit the encoder."""

import math
from dataclasses import replace

from repre.data.views.view_recipes import MaskConfig, ViewsConfig
from repre.errors import UserError
from repre.frameworks import FRAMEWORKS, FrameworkConfig, framework_name
from repre.frameworks.base import Needs
from repre.models.encoder import Encoder
from repre.models.repre import ReconstructionConfig
from repre.utils.image_size import as_text


def framework_needs(framework: FrameworkConfig) -> Needs:
    """What the framework of a config needs."""
    return FRAMEWORKS[framework_name(framework)][1].needs


def check_needs(framework: FrameworkConfig, views: ViewsConfig, reconstruction: ReconstructionConfig) -> None:
    """Checks that a framework gets what it needs.

    Raises:
        UserError: it does not; the message names the setting.
    """
    name, needs = framework_name(framework), framework_needs(framework)
    if views.n_global < needs.global_views:
        raise UserError(f"views.n_global is {views.n_global}, but {name} compares two global views; set it to 2")
    if views.n_local and not needs.local_views:
        others = [other for other, (_, kind) in FRAMEWORKS.items() if kind.needs.local_views]
        raise UserError(
            f"views.n_local is {views.n_local}, but {name} takes global views only; set it to 0 or use {', '.join(others)}"
        )
    if needs.masks and views.mask.kind == "none":
        raise UserError(f"{name} predicts hidden patches, but views.mask.kind is none; set it to block or random")
    if needs.masks and reconstruction.weight and reconstruction.masked_forward == "separate":
        raise UserError(f"reconstruction.masked_forward is separate, but {name} itself hides patches; set it to shared")
    if (
        reconstruction.weight
        and reconstruction.patch_norm
        and any(side % reconstruction.patch_norm for side in views.shape)
    ):
        raise UserError(
            f"reconstruction.patch_norm is {reconstruction.patch_norm} pixels, which do not divide global views of "
            f"{as_text(views.size)}; set it to a divisor of {math.gcd(*views.shape)}"
        )
    if needs.branch and (not reconstruction.weight or reconstruction.end_fraction < 1 or reconstruction.balance):
        raise UserError(
            f"{name} trains by the reconstruction branch alone: it needs a reconstruction.weight above 0, "
            "reconstruction.end_fraction 1 and reconstruction.balance 0"
        )
    if needs.branch and reconstruction.masked_forward == "separate":
        raise UserError(f"{name} computes nothing from unmasked views; set reconstruction.masked_forward to shared")


def used_masks(framework: FrameworkConfig, views: ViewsConfig, reconstruction: ReconstructionConfig) -> MaskConfig:
    """The masks of a run: none if neither the framework nor the branch uses them."""
    return views.mask if framework_needs(framework).masks or reconstruction.weight else MaskConfig()


def needs_mask_token(framework: FrameworkConfig, views: ViewsConfig, reconstruction: ReconstructionConfig) -> bool:
    """Whether the encoder of a run needs a mask token."""
    return used_masks(framework, views, reconstruction).kind != "none" and (
        framework_needs(framework).masks or reconstruction.masked_input == "token"
    )


def fit_masks(views: ViewsConfig, encoder: Encoder, needs: Needs) -> ViewsConfig:
    """The views with the side of a hidden patch, if it was left to the encoder; other views stay as they are.

    Raises:
        UserError: hidden patches of this side do not consist of whole patches of the encoder.
    """
    if views.mask.kind == "none":
        return views
    patch = views.mask.patch or encoder.patch_stride
    layout = encoder.check_size(*views.shape)
    unit = 1
    if needs.masks and needs.patches and patch != encoder.patch_stride:
        raise UserError(
            f"views.mask.patch is {patch} pixels, but the framework predicts hidden patch tokens of "
            f"{encoder.patch_stride} pixels; leave it out"
        )
    if encoder.mask_token is not None:
        assert layout.embedded is not None
        unit = -(-views.shape[0] // layout.embedded[0])
    if patch % unit or any(side % patch for side in views.shape):
        raise UserError(
            f"views.mask.patch is {patch} pixels; it must divide views.size {as_text(views.size)} and be a multiple of the "
            f"{unit} pixels of a patch of {encoder.config.name}"
        )
    return replace(views, mask=replace(views.mask, patch=patch))
