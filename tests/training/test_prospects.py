"""Runs that cannot learn are refused before they start; what is unlikely to help is named with its option."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repre.data.loading.order import check_batch
from repre.data.views.augmentations import ViewConfig
from repre.errors import UserError
from repre.frameworks import BYOLConfig, DINOConfig, MoBYConfig, PixelsConfig
from repre.models.decoder import BranchCost, DecoderConfig
from repre.models.repre import ReconstructionConfig
from repre.recipes import RECIPES, recipe
from repre.training.optim import OptimConfig
from repre.training.prospects import check_decoder, check_prospects
from tests.training.toy import toy

OPTIM = OptimConfig(lr=4e-3, base_batch_size=32, warmup_fraction=0.1)
WHOLE = ViewConfig(scale=(1, 1), flip=0, jitter=0)


def changed(**changes: Any) -> Any:
    """192 images in batches of 32 for 4 epochs, 24 steps, with changes."""
    return replace(toy(Path("run")), **changes)


def optim(**changes: Any) -> dict[str, Any]:
    return {"optim": replace(OPTIM, **changes)}


@pytest.mark.parametrize(
    ("changes", "images", "message"),
    [
        (
            {"epochs": 1},
            32,
            "1 step in all .32 images, batch 32, 1 epoch.*more --epochs, a smaller --batch-size",
        ),
        ({"epochs": 1}, 63, "1 step in all"),
        (optim(lr=0.0), 192, "optim.lr is 0.*--optim.lr above 0"),
        ({"framework": BYOLConfig(head_warmup=0.97)}, 192, "encoder would never learn.*--framework.head-warmup 0"),
    ],
)
def test_a_run_in_which_nothing_can_be_learned_is_refused(changes: dict[str, Any], images: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_prospects(changed(**changes), images=images)


@pytest.mark.parametrize(
    ("changes", "images", "message"),
    [
        ({"epochs": 1, **optim(warmup_fraction=0.0)}, 32, "one step in all"),
        ({"epochs": 40}, 50, "an epoch is one step, which shows 32 of the 50 images; --batch-size 12"),
        (optim(lr=1e-9), 192, "add up to .* the peak is 1e-09 .*--optim.lr"),
        (optim(base_batch_size=2**30), 192, "add up to"),
        (optim(warmup_fraction=1.0), 192, "only rises, to .*; give a smaller --optim.warmup-fraction"),
        (
            optim(schedule="wsd", decay_fraction=0.0, base_epochs=80),
            192,
            "warm-up of 8 epochs lasts as long as the run",
        ),
        (optim(min_lr=0.1), 192, "optim.min_lr 0.1 is above the peak .* --optim.min-lr"),
        (optim(warmup_lr=0.1), 192, "optim.warmup_lr 0.1 is above the peak .* --optim.warmup-lr"),
        (optim(lr=10.0), 192, "removes up to 100% of every weight"),
        (
            {"framework": BYOLConfig(momentum=0.999)},
            192,
            "teacher hardly moves: .* 9[0-9]% .*--framework.momentum",
        ),
        ({"framework": MoBYConfig(momentum=1.0, queue=8)}, 192, "teacher hardly moves: after the last step 100%"),
        (
            {"framework": MoBYConfig(queue=4096)},
            192,
            "queue of 4096 keys is longer than all 768 images.*--framework.queue",
        ),
        ({"framework": DINOConfig(freeze_last_layer=1.0)}, 192, "last layer .* --framework.freeze-last-layer"),
        ({"views": replace(changed().views, first=WHOLE, second=WHOLE)}, 192, "same pixels.*--views.first.scale"),
    ],
)
def test_a_setting_that_leaves_little_to_learn_is_named(changes: dict[str, Any], images: int, message: str) -> None:
    warnings = "\n".join(check_prospects(changed(**changes), images=images))
    assert re.search(f"warning: .*{message}", warnings), warnings


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_have_no_warnings_for_the_images_they_are_made_for(name: str) -> None:
    config = recipe(name)
    images = 1000 if name in ("quickstart", "small-data") else 1_281_167
    assert check_prospects(config, images=images) == []


def test_a_healthy_run_has_no_warning() -> None:
    assert check_prospects(changed(), images=192) == []


def test_pixels_without_the_branch_is_refused() -> None:
    with pytest.raises(UserError, match="reconstruction branch alone"):
        changed(framework=PixelsConfig(), reconstruction=ReconstructionConfig(weight=0.0))


@pytest.mark.parametrize(
    ("batch_size", "images", "processes", "message"),
    [
        (2, 1, 1, "too few to train on"),
        (20, 10, 1, "use --batch-size 5 or less"),
        (4, 3, 1, "use --batch-size 2 or less"),
        (20, 10, 4, "use --batch-size 4 or less"),
        (8, 3, 4, "4 processes need more images"),
        (10, 64, 4, "use --batch-size 8"),
    ],
)
def test_a_batch_that_does_not_fit_is_answered_by_one_that_does(
    batch_size: int, images: int, processes: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check_batch(batch_size, images=images, spec="photos", processes=processes)
    if "--batch-size" in message:
        check_batch(int(message.split()[2]), images=images, spec="photos", processes=processes)


@pytest.mark.parametrize(("share", "fix"), [(4.81, "--decoder.dim 40,"), (200.0, "--decoder.kind linear")])
def test_a_decoder_larger_than_the_encoder_is_named_with_a_smaller_one(share: float, fix: str) -> None:
    cost = BranchCost(
        encoder_parameters=1000, decoder_parameters=100, encoder_flops=100, decoder_flops=round(100 * share)
    )
    assert fix in str(check_decoder(cost, DecoderConfig()))
    assert f"is {share:.0%} of the encoder" in str(check_decoder(cost, DecoderConfig()))
    assert check_decoder(replace(cost, decoder_flops=100), DecoderConfig()) is None
