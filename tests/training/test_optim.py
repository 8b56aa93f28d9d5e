"""Parameter groups, and schedules written into them."""

import pytest
from torch import nn

from repre.errors import UserError
from repre.training.optim import OptimConfig, build_optimizer, parameter_groups, set_schedule
from tests import tiny


def test_vectors_positions_and_tokens_are_not_decayed() -> None:
    model = tiny.tiny_model("moco-v3", "vit")
    names = {id(p): n for n, p in model.named_parameters()}
    decayed, plain = parameter_groups(model, keep=model.encoder.no_weight_decay)
    assert decayed["decay"]
    assert not plain["decay"]
    assert all(p.ndim > 1 for p in decayed["params"])
    left_alone = {names[id(p)] for p in plain["params"]}
    assert {"encoder.model.pos_embed", "encoder.model.cls_token"} <= left_alone
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    assert {names[id(p)] for g in (decayed, plain) for p in g["params"]} == trainable


def test_schedule_scales_with_the_batch_and_spares_vectors() -> None:
    config = OptimConfig(lr=0.2, base_batch_size=256, warmup_fraction=0.5, weight_decay=0.1, weight_decay_end=0.3)
    optimizer = build_optimizer(config, nn.Linear(3, 2))
    lr = set_schedule(optimizer, config, progress=0.25, batch=512)
    assert lr == pytest.approx(0.2)  # half way up to 0.4
    decays = [group["weight_decay"] for group in optimizer.param_groups]
    assert decays[0] == pytest.approx(config.weight_decay_at(0.25))
    assert decays[1] == 0.0
    set_schedule(optimizer, config, progress=1.0, batch=512)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0)
    assert optimizer.param_groups[0]["weight_decay"] == pytest.approx(0.3)


@pytest.mark.parametrize(
    "setting", [{"lr": -1.0}, {"warmup_fraction": 1.5}, {"clip_grad_norm": 0.0}, {"base_batch_size": 0}]
)
def test_bad_settings_are_named(setting: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"optim.{next(iter(setting))}"):
        OptimConfig(**setting)  # type: ignore[arg-type]
