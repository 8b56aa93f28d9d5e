"""The framework pixels in whole runs: with and without masks, one view or two, in pieces, resumed, reported."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from repre.config import ComputeConfig, RunConfig
from repre.data.views.view_recipes import MaskConfig, ViewsConfig, simmim_views
from repre.errors import UserError
from repre.models.repre import ReconstructionConfig
from repre.recipes import recipe
from repre.reporting import write_report
from repre.training.loop import train
from repre.training.optim import OptimConfig
from repre.training.planner import plan
from repre.utils.signals import Interrupted
from tests import tiny
from tests.training.test_broken_runs import alarms
from tests.training.test_loop import assert_equal, stop_at, weights
from tests.training.test_loop import config as loop_config
from tests.training.toy import run, toy


def config(out: Path, encoder: str, *, masked: bool, n_global: int, **changes: Any) -> RunConfig:
    mask = MaskConfig(kind="random" if masked else "none")  # of the encoder's own patches
    views = replace(simmim_views(), size=tiny.SIDES[encoder], n_global=n_global, mask=mask)
    optim = OptimConfig(lr=1e-3, base_batch_size=8, warmup_fraction=0.1, clip_grad_norm=5.0)
    given: dict[str, Any] = {"epochs": 2, "views": views, "optim": optim}
    given["reconstruction"] = ReconstructionConfig(weight=2.0)
    return loop_config(out, "pixels", encoder, **(given | changes))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "masked", "n_global"), [("vit", True, 1), ("vit", False, 2), ("swin", True, 2), ("swin", False, 1)]
)
def test_a_run_trains_by_the_pixel_loss_alone_and_resumes_bit_equal(
    tmp_path: Path, encoder: str, masked: bool, n_global: int
) -> None:
    made = config(tmp_path / "straight", encoder, masked=masked, n_global=n_global)
    train(made)
    rows = [json.loads(line) for line in (tmp_path / "straight/metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 6
    for row in rows:
        assert "contrastive" not in row
        assert row["loss"] == pytest.approx(2 * row["pixel"], rel=1e-5)
    summary = json.loads((tmp_path / "straight/summary.json").read_text())
    assert summary["alarms"] == []
    assert summary["balance"] is None
    measured = summary["validations"][-1]
    assert {"rankme", "psnr", "gradient_pixel_first", "correspondence"} <= set(measured)
    assert not {"gradient_ratio", "gradient_contrastive_first", "teacher_agreement"} & set(measured)

    stopped = replace(made, out=str(tmp_path / "stopped"))
    with pytest.raises(Interrupted):
        train(stopped, probe=stop_at(3))
    train(stopped)
    assert_equal(weights(tmp_path / "straight"), weights(tmp_path / "stopped"))

    page = write_report(tmp_path / "straight").read_text(encoding="utf-8")
    assert "Contrastive loss" not in page
    assert "Pixel loss" in page


@pytest.mark.slow
def test_pieces_give_the_update_of_the_whole_batch(tmp_path: Path) -> None:
    for pieces in (0, 3):
        made = config(tmp_path / f"{pieces}", "vit", masked=True, n_global=1)
        train(replace(made, compute=ComputeConfig(micro_batch=pieces)))
    whole, cut = weights(tmp_path / "0"), weights(tmp_path / "3")
    for name, value in whole.items():
        assert torch.allclose(value, cut[name], atol=2e-4), name  # AdamW divides rounding by rounding


@pytest.mark.slow
def test_a_run_with_masks_and_one_view_can_be_planned(tmp_path: Path) -> None:
    made = config(tmp_path / "run", "vit", masked=True, n_global=1)
    measured = plan(made, seconds=1.0)
    assert measured.images_per_s > 0
    assert measured.chosen.heads_gib in (None, 0.0)


@pytest.mark.slow
def test_the_class_token_gets_no_gradient_and_average_pooling_leaves_none_out(tmp_path: Path) -> None:
    """Which is why the recipes for ViTs pool by average."""
    model = tiny.tiny_model("pixels", "vit", masked=True)
    model(tiny.tiny_views("pixels", "vit", masked=True), progress=0.0).total.backward()
    blocks = model.encoder.model.blocks
    assert all(p.grad is not None for p in blocks.parameters())
    assert model.encoder.mask_token is not None
    assert float(model.encoder.mask_token.token.grad.norm()) > 0
    assert model.encoder.model.norm.weight.grad is None
    for name in ("vit-tiny-pixels", "vit-base-pixels"):
        assert recipe(name).encoder.model_args["global_pool"] == "avg"


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True])
def test_a_healthy_run_raises_no_alarm(tmp_path: Path, masked: bool) -> None:
    """With one view of the recipe, and the class token as the embedding, which nothing trains.

    tests/training/test_broken_runs.py has it with two views, changed colors and average pooling.
    """
    mask = MaskConfig(kind="random", patch=8) if masked else MaskConfig()
    views = replace(simmim_views(), size=32, mask=mask)
    made = toy(tmp_path / "run", "pixels", epochs=7, views=views)
    arguments = made.encoder.model_args | {"global_pool": "token"}
    summary = run(replace(made, encoder=replace(made.encoder, model_args=arguments)))
    assert alarms(tmp_path / "run") == []
    assert summary["validations"][-1]["psnr"] > summary["validations"][0]["psnr"] + 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reconstruction": ReconstructionConfig(weight=0.0)}, "pixels trains by the reconstruction branch alone"),
        ({"reconstruction": ReconstructionConfig(end_fraction=0.5)}, "reconstruction.end_fraction 1"),
        ({"reconstruction": ReconstructionConfig(balance=0.1)}, "reconstruction.balance 0"),
        ({"reconstruction": ReconstructionConfig(masked_forward="separate")}, "set reconstruction.masked_forward"),
        ({"views": ViewsConfig(n_local=2)}, "pixels takes global views only"),
    ],
)
def test_settings_that_leave_nothing_to_train_are_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        config(tmp_path, "vit", masked=False, n_global=1, **changes)


@pytest.mark.parametrize("name", ["vit-tiny", "vit-small", "vit-base", "swin-tiny", "swin-small"])
def test_the_recipes_have_simmims_settings(name: str) -> None:
    """configs/vit_base__800ep and configs/swin_base__100ep of the authors' repository; rates are per 512 images there."""
    made = recipe(f"{name}-pixels")
    views, optim = made.views, made.optim
    assert (views.n_global, views.first.scale, views.first.jitter, views.first.grayscale) == (1, (0.67, 1.0), 0.0, 0.0)
    assert (views.mask.kind, views.mask.patch, views.mask.ratio) == ("random", 32, (0.6, 0.6))
    assert (made.reconstruction.loss, made.reconstruction.masked_pixels) == ("l1", "masked")
    assert (optim.weight_decay, optim.betas, optim.clip_grad_norm, made.batch_size) == (0.05, (0.9, 0.999), 5.0, 2048)
    steps = 1_281_167 // made.batch_size * made.epochs
    warmup = round(optim.warmup_fraction * steps) * made.epochs / steps
    assert warmup == pytest.approx(10, abs=0.01)
    peak = optim.lr_at(optim.warmup_fraction, batch_size=2048)
    start = 4 * (5e-7 if name.startswith("vit") else 1e-6)
    assert optim.lr_at(0.0, batch_size=2048) == pytest.approx(start)
    if name.startswith("vit"):
        assert (made.epochs, views.size, made.encoder.drop_path, peak) == (800, 224, 0.1, pytest.approx(4e-4))
    else:
        assert (made.epochs, views.size, made.encoder.drop_path, peak) == (100, 192, 0.0, pytest.approx(8e-4))
        assert optim.lr_at(1.0, batch_size=2048) == pytest.approx(4e-5)
