"""Parameter groups, and the schedules that are written into them."""

from typing import Any

import pytest
from torch import nn

from repre.errors import UserError
from repre.training.optim import OptimConfig, build_optimizer, parameter_groups, set_schedule
from tests import tiny


def test_vectors_positions_and_tokens_have_no_weight_decay() -> None:
    model = tiny.tiny_model("moco-v3", "vit")
    names = {id(p): n for n, p in model.named_parameters()}
    groups = parameter_groups(model, no_weight_decay=model.encoder.no_weight_decay)
    decayed, exempt = (list(group["params"]) for group in groups)
    assert [group["use_weight_decay"] for group in groups] == [True, False]
    assert [group["lr_scale"] for group in groups] == [1.0, 1.0]
    assert all(p.ndim > 1 for p in decayed)
    exempt_names = {names[id(p)] for p in exempt}
    assert {"encoder.model.pos_embed", "encoder.model.cls_token"} <= exempt_names
    assert exempt_names >= {name for name, p in model.named_parameters() if p.requires_grad and p.ndim <= 1}
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {names[id(p)] for p in (*decayed, *exempt)} == trainable


def test_layers_get_their_share_of_the_learning_rate() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False), nn.Linear(3, 2))
    optimizer = build_optimizer(
        OptimConfig(lr=0.2, warmup_fraction=0.0), model, layers={"0.weight": 0, "1.weight": 1}, layer_decay=0.5
    )
    lr = set_schedule(optimizer, OptimConfig(lr=0.2, warmup_fraction=0.0), progress=0.0, batch_size=256)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert [rates[id(p)] for p in model.parameters()] == pytest.approx([lr / 4, lr / 2, lr, lr])


def test_learning_rate_scales_with_the_batch_size_and_vectors_stay_without_decay() -> None:
    config = OptimConfig(
        lr=0.2, base_batch_size=256, warmup_fraction=0.5, min_lr=0.05, weight_decay=0.1, weight_decay_end=0.3
    )
    optimizer = build_optimizer(config, nn.Linear(3, 2))
    matrices, vectors = optimizer.param_groups
    assert set_schedule(optimizer, config, progress=0.25, batch_size=512) == pytest.approx(0.2)  # half way up to 0.4
    assert matrices["lr"] == vectors["lr"] == pytest.approx(0.2)
    assert 0.1 < matrices["weight_decay"] < 0.2
    assert vectors["weight_decay"] == 0.0
    set_schedule(optimizer, config, progress=1.0, batch_size=512)
    assert matrices["lr"] == pytest.approx(0.05)  # the end does not scale
    assert matrices["weight_decay"] == pytest.approx(0.3)
    assert vectors["weight_decay"] == 0.0


def test_the_warm_up_starts_from_its_own_rate() -> None:
    config = OptimConfig(lr=1e-3, warmup_lr=1e-4, min_lr=1e-5, warmup_fraction=0.1)
    rates = [config.lr_at(progress, batch_size=256) for progress in (0.0, 0.05, 0.1, 1.0)]
    assert rates == pytest.approx([1e-4, 5.5e-4, 1e-3, 1e-5])


def test_parameters_that_start_later_warm_up_then_and_join_the_curve_of_the_others() -> None:
    config = OptimConfig(lr=1e-3, warmup_lr=1e-4, warmup_fraction=0.2, base_batch_size=256)

    def rate(progress: float, start: float) -> float:
        return config.lr_at(progress, batch_size=256, start=start)

    assert rate(0.0, 0.3) == rate(0.299, 0.3) == 0.0
    assert [rate(progress, 0.3) for progress in (0.3, 0.35, 0.4)] == pytest.approx([1e-4, 3.25e-4, 5.5e-4])
    rising = [rate(0.3 + number / 1000, 0.3) for number in range(700)]
    joined = next(n for n, value in enumerate(rising) if value == rate(0.3 + n / 1000, 0.0))
    assert 0.1 < joined / 1000 < 0.2
    assert rising[joined:] == [rate(0.3 + n / 1000, 0.0) for n in range(joined, 700)]
    assert max(abs(a - b) for a, b in zip(rising[1:], rising)) < 1e-5  # no jump
    immediate = OptimConfig(lr=1e-3, warmup_fraction=0.0)
    assert immediate.lr_at(0.3, batch_size=256, start=0.3) == immediate.lr_at(0.3, batch_size=256)


def test_weight_decay_is_constant_by_default() -> None:
    config = OptimConfig(weight_decay=0.1)
    assert config.weight_decay_at(0.0) == config.weight_decay_at(0.7) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", -1.0),
        ("lr", float("nan")),
        ("min_lr", -1e-9),
        ("weight_decay", -0.1),
        ("warmup_fraction", 1.5),
        ("clip_grad_norm", 0.0),
        ("base_batch_size", 0),
        ("warmup_lr", -1e-9),
        ("layer_decay", 0.0),
        ("layer_decay", 1.1),
        ("patch_embed_lr_scale", -0.1),
    ],
)
def test_bad_settings_are_named(name: str, value: float) -> None:
    with pytest.raises(UserError, match=f"optim.{name}"):
        OptimConfig(**{name: value})  # type: ignore[arg-type]


def test_nothing_before_the_decay_depends_on_the_length_of_the_run() -> None:
    config = OptimConfig(
        lr=1e-3, schedule="wsd", decay_fraction=0.25, warmup_fraction=0.2, weight_decay=0.1, weight_decay_end=0.3
    )

    def at(step: int, total: int) -> tuple[float, float]:
        progress = config.progress_at(step, total=total, base=40)
        return config.lr_at(progress, batch_size=256), config.weight_decay_at(progress)

    assert config.decay_start(40) == 30
    assert [at(step, 40) for step in range(31)] == [at(step, 100) for step in range(31)]
    assert at(4, 40)[0] == pytest.approx(5e-4)
    assert [at(step, 100) for step in range(8, 76)] == [(1e-3, 0.1)] * 68
    assert at(40, 40) == at(100, 100) == pytest.approx((0.0, 0.3))
    assert OptimConfig(schedule="wsd", decay_fraction=0.0).decay_start(40) == 40
    assert type(OptimConfig().progress_at(1, total=4, base=4)) is float


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decay_fraction": 1.5}, "optim.decay_fraction"),
        ({"base_epochs": 3}, "optim.base_epochs .* needs optim.schedule wsd"),
        ({"schedule": "wsd", "base_epochs": 0}, "optim.base_epochs must be at least 1"),
        ({"schedule": "wsd", "decay_fraction": 0.9, "warmup_fraction": 0.2}, "more than the whole run"),
        ({"schedule": "wds"}, "optim.schedule must be one of cosine, wsd"),
    ],
)
def test_schedules_that_make_no_plan_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        OptimConfig(**settings)
