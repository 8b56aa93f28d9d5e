"""The recipe small-data: its settings at the edges of what it is for, and that they follow the images of the data."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from repre.errors import UserError
from repre.recipes import fit_to_images, recipe
from repre.small_data import FEWEST, settings_for, small_data


@pytest.mark.parametrize("images", [10, 11, 31, 64, 100, 367, 1000, 4999, 5000, 10_000, 50_000, 200_000])
def test_settings_fit_the_number_of_images(images: int) -> None:
    chosen = settings_for(images)
    assert 8 <= chosen.batch_size <= images
    steps = chosen.epochs * (images // chosen.batch_size)
    assert 300 <= steps <= 150_000
    assert chosen.epochs >= 10
    config = small_data(images)
    peak = config.optim.lr_at(config.optim.warmup_fraction, batch_size=config.batch_size)
    assert peak == pytest.approx(chosen.lr), "the rate is that of this batch, not scaled again"
    assert 1e-4 <= peak <= 3e-3
    assert config.epochs // config.runtime.eval_every_epochs >= 5, "alarms need several validations"


def test_more_images_are_shown_more_often_in_all_and_each_less_often() -> None:
    counts = [100, 1000, 10_000, 50_000]
    chosen = [settings_for(images) for images in counts]
    shown = [settings.epochs * images for images, settings in zip(counts, chosen)]
    assert shown == sorted(shown)
    assert [settings.epochs for settings in chosen] == sorted((s.epochs for s in chosen), reverse=True)
    assert [settings.batch_size for settings in chosen] == sorted(s.batch_size for s in chosen)
    assert [settings.encoder for settings in chosen] == sorted((s.encoder for s in chosen), reverse=True)  # tiny, small


def test_too_few_images_are_refused_with_what_to_do_instead() -> None:
    with pytest.raises(UserError, match=f"at least {FEWEST} images, but there are 9: add images to --data, or use"):
        settings_for(FEWEST - 1)


def test_the_recipe_follows_the_data_and_others_do_not() -> None:
    config = replace(recipe("small-data"), data="scenes:100:32")
    assert recipe("small-data") == small_data(1000)
    assert fit_to_images("small-data", config) == small_data(100)
    assert fit_to_images("vit-small-dino", config) is None
    assert recipe("vit-small-dino", images=100) == recipe("vit-small-dino")


def test_the_page_has_the_settings() -> None:
    page = (Path(__file__).parents[1] / "docs/small-data.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| ([\d,]+) \| ViT-(Ti|S)/16 \| (\d+) px \| (\d+) \| ([\d.]+) \| (\d+) \| ([\d,]+) \|$", page, re.M
    )
    assert len(rows) >= 5
    for images, encoder, size, batch, lr, epochs, steps in rows:
        count = int(images.replace(",", ""))
        chosen = settings_for(count)
        assert chosen.encoder.startswith({"Ti": "vit_tiny", "S": "vit_small"}[encoder])
        assert (chosen.size, chosen.batch_size, chosen.epochs) == (int(size), int(batch), int(epochs))
        assert chosen.lr == pytest.approx(float(lr))
        assert chosen.epochs * (count // chosen.batch_size) == int(steps.replace(",", ""))
