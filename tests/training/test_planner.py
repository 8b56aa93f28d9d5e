"""The planner measures real steps, chooses what fits, and tells what it means for the run."""

from dataclasses import replace
from pathlib import Path

import pytest

from repre.config import RunConfig, RuntimeConfig
from repre.data.views.view_recipes import moco_v3_views
from repre.errors import UserError
from repre.models.decoder import DecoderConfig
from repre.models.repre import RePre
from repre.training import planner, trials
from repre.training.planner import plan
from tests.tiny import ENCODERS, FRAMEWORKS
from tests.training.fake_memory import FakeMemory, install

pytestmark = pytest.mark.slow

CONFIG = RunConfig(
    data="scenes:64:32",
    epochs=7,
    batch_size=32,
    encoder=replace(ENCODERS["vit"], image_size=None),
    framework=FRAMEWORKS["moco-v3"],
    decoder=DecoderConfig(dim=16),
    views=moco_v3_views(32),
    runtime=RuntimeConfig(device="cpu"),
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps of each trial are enough to see that they are steps."""
    clock = iter(range(10**6))
    monkeypatch.setattr(planner.time, "monotonic", lambda: float(next(clock)))


def test_it_writes_nothing_and_says_what_to_add(tmp_path: Path) -> None:
    found = plan(replace(CONFIG, out=str(tmp_path / "run")), seconds=60)
    assert not (tmp_path / "run").exists()
    assert found.chosen.images_per_s is not None
    assert found.images_per_s <= found.chosen.images_per_s
    assert found.images_per_s <= found.workers * found.decode_per_s
    assert found.hours == pytest.approx(found.hours_per_100_epochs * 7 / 100)
    text = str(found)
    for part in ("whole batch", "<- chosen", "limited by", "heads and loss", f"--runtime.workers {found.workers}"):
        assert part in text


def test_what_heads_and_loss_keep_grows_with_the_batch_and_not_with_its_pieces() -> None:
    small, large = (plan(replace(CONFIG, batch_size=size), seconds=60) for size in (16, 64))
    kept = [{trial.heads_gib for trial in found.trials if trial.heads_gib} for found in (small, large)]
    assert [len(each) for each in kept] == [1, 1]
    assert 3.5 < kept[1].pop() / kept[0].pop() < 8  # in proportion, with a part of InfoNCE's that grows with the square


def test_a_budget_shortens_the_run_and_too_small_a_one_is_refused() -> None:
    whole = plan(CONFIG, seconds=60)
    short = plan(CONFIG, seconds=60, max_hours=whole.hours / 2)
    assert short.epochs < 7
    assert short.hours <= whole.hours / 2
    assert f"--epochs {short.epochs}" in str(short)
    with pytest.raises(UserError, match="one epoch takes"):
        plan(CONFIG, seconds=60, max_hours=1e-9)


def little_memory(monkeypatch: pytest.MonkeyPatch, capacity: float) -> FakeMemory:
    """A device of so many GiB, whose steps compute nothing."""
    fake = install(monkeypatch, capacity)
    monkeypatch.setattr(trials, "device_memory", lambda device: fake)

    def step(model: RePre, *args: object, micro_batch: int, **settings: object) -> None:
        fake.take(micro_batch, CONFIG.batch_size, model)

    monkeypatch.setattr(trials, "train_step", step)
    return fake


def test_the_largest_piece_that_fits_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the search that a run makes too."""
    fake = little_memory(monkeypatch, 20)
    found = plan(CONFIG, seconds=60)
    assert [trial.micro_batch for trial in found.trials] == [16]
    assert found.chosen.memory_gib == 17
    assert {size for size, _ in fake.tried} == {8, 16}
    assert "--compute.micro-batch 16" in found.options


def test_images_in_the_memory_of_the_device_take_their_share_and_are_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    little_memory(monkeypatch, 20)
    monkeypatch.setattr(planner, "planned_bytes", lambda *_, **__: 2 * 2**30)
    found = plan(CONFIG, seconds=60)
    assert [trial.micro_batch for trial in found.trials] == [8], "16 would take 17 of 18 GiB"
    assert "all images stay in the memory of the device (2.00 GiB), decoded once" in str(found)
    assert found.limit == "the step"


def test_checkpointing_is_tried_where_nothing_else_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    little_memory(monkeypatch, 9)
    found = plan(CONFIG, seconds=60)
    assert [(trial.micro_batch, trial.images_per_s is None) for trial in found.trials] == [(8, True), (16, False)]
    assert "--encoder.grad-checkpointing" in found.options
    assert "does not fit" in str(found)


@pytest.mark.parametrize("capacity", [2, 3.2])
def test_a_device_without_memory_for_the_smallest_piece_is_refused(
    monkeypatch: pytest.MonkeyPatch, capacity: float
) -> None:
    little_memory(monkeypatch, capacity)
    with pytest.raises(UserError, match="not even 8 images at once"):
        plan(CONFIG, seconds=60)


@pytest.mark.parametrize("capacity", [8, 9.5])
def test_an_encoder_that_normalizes_over_the_batch_is_not_cut(monkeypatch: pytest.MonkeyPatch, capacity: float) -> None:
    little_memory(monkeypatch, capacity)
    encoder = replace(CONFIG.encoder, name="resnet18", patch_size=None, model_args={})
    with pytest.raises(UserError, match=f"not even {CONFIG.batch_size} images at once"):
        plan(replace(CONFIG, encoder=encoder), seconds=60)


@pytest.mark.parametrize(("setting", "value"), [("seconds", -1.0), ("seconds", 0.0), ("max_hours", 0.0)])
def test_times_are_above_0(setting: str, value: float) -> None:
    with pytest.raises(UserError, match=setting.replace("_", "-")):
        plan(CONFIG, **{setting: value})
