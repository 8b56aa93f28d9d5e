"""`repre recipes`: every recipe has a line, and the estimates keep to what was measured."""

import pytest

from repre.cli.list_recipes import FOR_WHOM, GIGA_MACS, MEGA_VALUES, estimate
from repre.recipes import ENCODERS, FRAMEWORK_RECIPES, RECIPES, recipe
from tests.cli.conftest import Repre


def test_every_recipe_has_a_line(repre: Repre) -> None:
    code, out, err = repre("recipes")
    assert (code, err) == (0, "")
    lines = {line.split()[0]: line for line in out.splitlines() if line}
    assert set(RECIPES) <= set(lines)
    assert all(line.split("  ")[-1].strip() for line in lines.values())
    assert max(map(len, out.splitlines())) <= 120
    assert "10 to 200,000 images" in out


def test_tables_have_every_encoder_and_framework() -> None:
    assert set(GIGA_MACS) == set(MEGA_VALUES) == set(ENCODERS)
    assert set(FOR_WHOM) == set(FRAMEWORK_RECIPES)


def test_estimates_are_those_of_the_measured_steps() -> None:
    """docs/performance.md: 256 images in 80.8 to 91.6 ms and 11.2 to 12.7 GiB, with ViT-S, MoCo v3 and the branch."""
    config = recipe("vit-small-moco-v3")
    memory, hours = estimate(config, "vit-small")
    assert 11 <= memory * 256 / config.batch_size <= 13
    milliseconds = hours * 3.6e6 / (1_281_167 * config.epochs / 256)
    assert 80 <= milliseconds <= 92
    longer, _ = estimate(recipe("vit-small-dino"), "vit-small")
    assert longer > memory, "small views take memory too"


def test_a_mistake_exits_with_code_2(repre: Repre) -> None:
    code, _, err = repre("recipes", "--data", "photos")
    assert code == 2
    assert "--data" in err


@pytest.mark.parametrize("command", ["pretrain", "plan"])
def test_small_data_prints_what_it_chose_for_the_images(command: str, repre: Repre) -> None:
    _, few, _ = repre(command, "small-data", "--data", "scenes:40:32", "--print-config")
    code, many, err = repre(command, "small-data", "--data", "scenes:4000:32", "--optim.lr", "0.5", "--print-config")
    assert (code, err) == (0, "")
    assert "batch_size: 8" in few
    assert "batch_size: 128" in many
    assert "lr: 0.5" in many, "options count more than what is chosen"
