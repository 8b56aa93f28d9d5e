"""The probe measures real steps, chooses what fits, and says what it means for the run."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from repre.config import RunConfig, RuntimeConfig
from repre.data.views.render import moco_v3_views
from repre.errors import UserError
from repre.models.decoder import DecoderConfig
from repre.training import planner as module
from repre.training.planner import Trial, plan, words
from tests.tiny import ENCODERS, FRAMEWORKS

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
    """Two steps of each probe are enough to see that they are steps."""
    clock = iter(range(10**6))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))


def test_it_writes_nothing_and_says_what_to_add(tmp_path: Path) -> None:
    found = plan(replace(CONFIG, out=str(tmp_path / "run")), seconds=60)
    assert not (tmp_path / "run").exists()
    assert found.chosen.images_per_s is not None
    assert found.images_per_s <= found.chosen.images_per_s
    assert found.images_per_s <= found.workers * found.decode_per_s
    assert found.hours == pytest.approx(found.hours_per_100_epochs * 7 / 100)
    text = words(found)
    for part in ("whole batch", "<- chosen", "limited by", "heads and loss", f"--runtime.workers {found.workers}"):
        assert part in text


def test_what_heads_and_loss_keep_grows_with_the_batch_and_not_with_its_pieces() -> None:
    small, large = (plan(replace(CONFIG, batch_size=size), seconds=60) for size in (16, 64))
    kept = [{probe.heads_gib for probe in found.probes if probe.heads_gib} for found in (small, large)]
    assert [len(each) for each in kept] == [1, 1]
    assert 3.5 < kept[1].pop() / kept[0].pop() < 8  # in proportion, with a part of InfoNCE's that grows with the square


def test_a_budget_shortens_the_run_and_too_small_a_one_is_refused() -> None:
    whole = plan(CONFIG, seconds=60)
    short = plan(CONFIG, seconds=60, max_hours=whole.hours / 2)
    assert short.epochs < 7
    assert short.hours <= whole.hours / 2
    assert f"--epochs {short.epochs}" in words(short)
    with pytest.raises(UserError, match="one epoch takes"):
        plan(CONFIG, seconds=60, max_hours=1e-9)


def fake_probe(fits: int) -> object:
    def probe(wanted: Trial, *rest: object) -> Trial:
        if wanted.micro_batch > fits:
            return wanted
        return replace(wanted, images_per_s=100.0 + wanted.micro_batch, memory_gib=1.0)

    return probe


def test_pieces_are_taken_where_the_whole_batch_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_probe", fake_probe(16))
    found = plan(CONFIG, seconds=60)
    assert [probe.images_per_s is None for probe in found.probes] == [True, False, False]
    assert found.chosen.micro_batch == 16
    assert "--compute.micro-batch 16" in found.options
    assert "does not fit" in words(found)
    monkeypatch.setattr(module, "_probe", fake_probe(4))
    with pytest.raises(UserError, match="not even 8 images at once"):
        plan(CONFIG, seconds=60)


def test_an_encoder_that_normalizes_over_the_batch_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_probe", fake_probe(16))
    encoder = replace(CONFIG.encoder, name="resnet18", patch_size=None, model_args={})
    with pytest.raises(UserError, match=f"not even {CONFIG.batch_size} images at once"):
        plan(replace(CONFIG, encoder=encoder), seconds=60)


def test_what_takes_too_much_memory_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_memory_limit", lambda device: 1.0)
    with pytest.raises(UserError, match="not even 8 images at once"):
        plan(CONFIG, seconds=60)


def test_out_of_memory_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    real = module.forward_backward

    def fails(*args: object, micro_batch: int = 0, **more: object) -> object:
        if micro_batch == 0:
            raise torch.OutOfMemoryError("out of memory")
        return real(*args, micro_batch=micro_batch, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "forward_backward", fails)
    assert plan(CONFIG, seconds=60).chosen.micro_batch == 16
