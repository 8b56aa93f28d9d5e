"""Whole small trainings: healthy ones raise no alarm, those that were broken on purpose raise the right one first, and every
rule fires in one of them."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from repre.config import RunConfig
from repre.data.views.augmentations import ViewConfig
from repre.data.views.view_recipes import ViewsConfig
from repre.models.repre import RePre
from repre.recipes import recipe
from repre.training.monitoring.alarm_rules import RULES, Bound, Rule
from repre.types import Features, FrameworkOutput, Views
from tests import tiny
from tests.training.toy import STEPS_PER_EPOCH, run, toy

pytestmark = pytest.mark.slow
Outcome = Callable[[str], dict[str, Any]]
PLAIN = ViewConfig(scale=(0.6, 1.0))
FEW = "scenes:64:32"
"""Two steps an epoch, so that validations come often."""


def alarms(out: Path) -> list[dict[str, Any]]:
    file = out / "alarms.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


# -------------------------------------------------------------------------------------------------- broken settings


def temperature(config: RunConfig, contrastive: float, teacher: float) -> dict[str, Any]:
    both = {"teacher_temperature_start": teacher, "teacher_temperature": teacher}
    changed = both if hasattr(config.framework, "teacher_temperature") else {"temperature": contrastive}
    return {"framework": replace(config.framework, **changed)}


def rate(config: RunConfig, factor: float, **more: Any) -> dict[str, Any]:
    return {"optim": replace(config.optim, lr=factor * config.optim.lr), **more}


def frozen(config: RunConfig) -> dict[str, Any]:
    return {"framework": replace(config.framework, momentum=1.0)}


def one_image(config: RunConfig) -> dict[str, Any]:
    photos = Path(config.out).parent / "photos"
    photos.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    for i in range(64):
        Image.fromarray(noise).resize((32, 32), Image.Resampling.BICUBIC).save(photos / f"{i:02d}.png")
    return {"data": str(photos)}


def frozen_center(config: RunConfig) -> dict[str, Any]:
    return rate(config, 5, framework=replace(config.framework, center_momentum=1.0, momentum=0.9))


def two_kinds_of_views(config: RunConfig) -> dict[str, Any]:
    """The second view of every image is a negative."""
    return {"views": ViewsConfig(size=32, first=PLAIN, second=replace(PLAIN, solarize=1.0, threshold=0.0))}


def small_patches(config: RunConfig) -> dict[str, Any]:
    """Features find their place well before they are wrecked."""
    views = ViewsConfig(size=32, first=PLAIN, second=PLAIN)
    return rate(config, 100, encoder=replace(config.encoder, patch_size=4), views=views)


# ------------------------------------------------------------------------------------------ losses of the wrong sign

CONTRASTIVE = RePre.contrastive_loss


def with_loss(output: FrameworkOutput, loss: Tensor) -> FrameworkOutput:
    return replace(output, loss=loss)


def pushed_apart(
    self: RePre, student: list[Features], teacher: list[Features], views: Views, progress: float
) -> FrameworkOutput:
    output = CONTRASTIVE(self, student, teacher, views, progress)
    return with_loss(output, -output.loss)


def pulled_together(
    self: RePre, student: list[Features], teacher: list[Features], views: Views, progress: float
) -> FrameworkOutput:
    """All images to one point."""
    directions = F.normalize(torch.cat([view.embedding for view in student]), dim=1)
    return with_loss(CONTRASTIVE(self, student, teacher, views, progress), -directions.mean(0).square().sum())


def away_from_the_teacher(
    self: RePre, student: list[Features], teacher: list[Features], views: Views, progress: float
) -> FrameworkOutput:
    cosine = F.cosine_similarity(student[0].embedding, teacher[0].embedding).mean()
    return with_loss(CONTRASTIVE(self, student, teacher, views, progress), cosine)


def against_the_branch(
    self: RePre, student: list[Features], teacher: list[Features], views: Views, progress: float
) -> FrameworkOutput:
    """Worse pixels are the better loss."""
    output = CONTRASTIVE(self, student, teacher, views, progress)
    pixel = self.reconstruction_loss(student, views)
    assert pixel is not None
    return with_loss(output, 0.01 * output.loss - 2 * pixel)


# ------------------------------------------------------------------------------------------------------- the runs

BREAKS: dict[str, tuple[int, Callable[[RunConfig], dict[str, Any]], dict[str, Any]]] = {
    "hot": (2, lambda config: temperature(config, 20.0, 10.0), {}),
    "cold": (3, lambda config: temperature(config, 0.001, 1e-4), {}),
    "frozen teacher": (3, frozen, {}),
    "learning rate x100": (4, lambda config: rate(config, 100), {}),
    "learning rate x100, few images": (8, lambda config: rate(config, 100, data=FEW), {}),
    "learning rate x100, small patches": (4, small_patches, {}),
    "learning rate 0": (10, lambda config: rate(config, 1e-9, data=FEW), {}),
    "branch weight x1000": (4, lambda config: {"reconstruction": replace(config.reconstruction, weight=1000.0)}, {}),
    "branch weight /10000": (4, lambda config: {"reconstruction": replace(config.reconstruction, weight=1e-4)}, {}),
    "one image": (1, one_image, {}),
    "frozen center": (6, frozen_center, {}),
    "pushed apart": (3, two_kinds_of_views, {"contrastive_loss": pushed_apart}),
    "pulled together": (8, lambda config: {}, {"contrastive_loss": pulled_together}),
    "away from the teacher": (4, lambda config: {}, {"contrastive_loss": away_from_the_teacher}),
    "against the branch": (3, lambda config: {}, {"contrastive_loss": against_the_branch}),
}
"""What is broken -> epochs, long enough for the patience of the rules; what changes in a healthy run; methods of the model
that are replaced."""


def broken(name: str, out: Path) -> RunConfig:
    framework, _, what = name.partition(" ")
    epochs, change, _ = BREAKS[what]
    config = toy(out, framework, epochs=epochs)
    return replace(config, **change(config))


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The summary of a broken run by its name, trained when it is first asked for."""

    @cache
    def trained(name: str) -> dict[str, Any]:
        out = tmp_path_factory.mktemp("broken") / "run"
        with pytest.MonkeyPatch.context() as patch:
            for method, wrong in BREAKS[name.partition(" ")[2]][2].items():
                patch.setattr(RePre, method, wrong)
            summary = run(broken(name, out))
        assert alarms(out) == summary["alarms"]
        return summary

    return trained


# ------------------------------------------------------------------------------------------------------- the tests


@pytest.mark.parametrize("framework", tiny.FRAMEWORKS)
def test_silent_on_healthy_runs(tmp_path: Path, framework: str, capsys: pytest.CaptureFixture[str]) -> None:
    # With so few images, the gradient of BYOL's loss vanishes beside the branch at seed 0, and the alarm is right.
    made = toy(tmp_path / "run", framework, epochs=7, seed=1)
    defaults = recipe(f"vit-tiny-{framework}")
    views = replace(made.views, target=defaults.views.target)
    summary = run(replace(made, reconstruction=defaults.reconstruction, views=views))
    assert summary["alarms"] == []
    assert alarms(tmp_path / "run") == []
    assert "ALARM" not in capsys.readouterr().out
    assert summary["validations"][-1]["psnr"] > summary["validations"][0]["psnr"] + 1
    assert summary["validations"][-1]["distinct_images"] == 1


FIRST = {
    "hot": ({"moco-v3", "simclr", "moby"}, "negative_share"),
    "cold": ({"moco-v3", "simclr", "moby"}, "effective_negatives"),
    "frozen teacher": ({"moco-v3", "dino", "moby", "byol"}, "teacher_follows"),
    "branch weight x1000": ({name for name in tiny.FRAMEWORKS if not tiny.needs(name).branch}, "gradient_ratio"),
    "branch weight /10000": ({name for name in tiny.FRAMEWORKS if not tiny.needs(name).branch}, "gradient_ratio"),
    "one image": ({*tiny.FRAMEWORKS}, "distinct_images"),
}
"""What is broken -> the frameworks that have it, and the monitor that has to speak first and alone."""
ALWAYS = ("simclr", "dinov2", "moby")
"""The frameworks for which `make test` breaks what none of them takes part in; `make long` does so for the others."""


def unless_always(framework: str) -> list[pytest.MarkDecorator]:
    return [] if framework in ALWAYS else [pytest.mark.long]


@pytest.mark.parametrize(
    ("name", "first", "also"),
    [
        *(
            pytest.param(
                f"{framework} {what}",
                first,
                {"gradient_ratio"} if what == "cold" else set(),  # a cold loss drowns the branch
                marks=[] if what in ("hot", "cold", "frozen teacher") else unless_always(framework),
            )
            for what, (which, first) in FIRST.items()
            for framework in sorted(which)
        ),
        ("dino hot", "prototype_information", {"gradient_ratio"}),
        ("dino cold", "teacher_entropy", set()),
    ],
)
def test_the_right_alarm_on_a_broken_run(name: str, first: str, also: set[str], outcome: Outcome) -> None:
    raised = outcome(name)["alarms"]
    assert raised[0]["monitor"] == first
    assert {alarm["monitor"] for alarm in raised} - {first} <= also
    assert set(raised[0]) == {"step", "monitor", "value", "limit", "cause", "fix"}


@pytest.mark.parametrize("framework", [pytest.param(name, marks=unless_always(name)) for name in tiny.FRAMEWORKS])
def test_a_learning_rate_x100_is_named_before_what_it_wrecks(framework: str, outcome: Outcome) -> None:
    raised = outcome(f"{framework} learning rate x100")["alarms"]
    assert [alarm["monitor"] for alarm in raised[:2]] == ["update_size", "weight_size"]
    assert raised[1]["step"] <= 2 * STEPS_PER_EPOCH
    assert len(raised) > 2


def test_an_alarm_is_printed_and_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(replace(broken("simclr learning rate x100", tmp_path / "run"), epochs=1))
    printed = capsys.readouterr().out
    assert "ALARM update_size" in printed
    assert "Divide --optim.lr" in printed
    assert "ALARM update_size" in (tmp_path / "run/log.txt").read_text()


WRECKED = ("simclr learning rate x100", "moby learning rate x100", "byol learning rate x100, small patches")
SHOWN = {
    "distinct_images": ("simclr one image",),
    "update_size": ("simclr learning rate x100",),
    "weight_size": ("simclr learning rate x100",),
    "embedding_std": ("simclr pulled together", *WRECKED),
    "rankme": ("simclr pulled together", *WRECKED),
    "batch_std": ("simclr pulled together", *WRECKED),
    "uniformity": ("simclr pulled together",),
    "alignment": ("simclr pushed apart",),
    "teacher_follows": ("byol frozen teacher",),
    "teacher_agreement": ("byol away from the teacher",),
    "negative_share": ("simclr hot",),
    "effective_negatives": ("simclr cold",),
    "prototype_information": ("dino hot",),
    "prototype_information of one prototype": ("dino frozen center",),
    "teacher_entropy": ("dino cold",),
    "correspondence": ("byol learning rate x100, small patches", "simclr learning rate x100, small patches"),
    "patch_rank": WRECKED,
    "level_similarity_*": ("simclr learning rate 0",),
    "psnr": ("simclr against the branch",),
    "ssim": ("simclr against the branch",),
    "level_share_*": WRECKED,
    "gradient_ratio": ("simclr branch weight x1000",),
    "gradient_ratio of an inert branch": ("simclr branch weight /10000",),
    "gradient_cosine_*": ("simclr against the branch",),
}
"""Every rule -> broken runs of which at least one has to make it fire. A wrecked encoder is wrecked in a way that rounding
decides, so that there are several for what it may lose."""


def name_of(rule: Rule) -> str:
    if rule.monitor == "gradient_ratio" and rule.below is not None:
        return "gradient_ratio of an inert branch"
    one_prototype = rule.only_if == Bound(monitor="prototype_entropy", below=1.0)
    return f"{rule.monitor} of one prototype" if one_prototype else rule.monitor


@pytest.mark.parametrize("rule", RULES, ids=name_of)
def test_every_rule_fires_in_a_training(rule: Rule, outcome: Outcome) -> None:
    assert any(alarm["cause"] == rule.cause for name in SHOWN[name_of(rule)] for alarm in outcome(name)["alarms"])
