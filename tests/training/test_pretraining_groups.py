"""Which parameters decay, by every framework's rule; learning rates of layers; heads that learn before the encoder does."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from repre.errors import UserError
from repre.frameworks import FRAMEWORKS, DINOv2Config, FrameworkConfig
from repre.models.encoder import EncoderConfig
from repre.models.repre import RePre, build_model
from repre.training.optim import OptimConfig, set_schedule
from repre.training.pretraining_groups import build_pretraining_optimizer, pretraining_groups
from repre.training.step import train_step
from tests import tiny

ENCODERS = {
    "vit": EncoderConfig(name="vit_small_patch16_224", model_args={"depth": 2}),
    "vit-layer-scale": EncoderConfig(name="deit3_small_patch16_224", model_args={"depth": 2}),
    "swin": EncoderConfig(name="swin_tiny_patch4_window7_224", model_args={"depths": (1, 1, 1, 1)}),
}
SMALL: dict[str, Any] = {"hidden_dim": 16}


def model_of(framework: FrameworkConfig, encoder: str) -> RePre:
    return build_model(
        encoder=ENCODERS[encoder],
        framework=framework,
        decoder=tiny.DecoderConfig(dim=16),
        reconstruction=tiny.ReconstructionConfig(),
        seed=0,
        mask_token=type(framework) is DINOv2Config,
    )


def config_of(framework: str) -> FrameworkConfig:
    config = FRAMEWORKS[framework][0]()
    if framework == "pixels":
        return config
    changes = SMALL | ({"prototypes": 16, "norm_last_layer": False} if framework.startswith("dino") else {})
    return replace(config, **changes)


def authors_rule(framework: str, name: str, parameter: nn.Parameter) -> bool:
    """Whether the authors' code decays a parameter of encoder or heads; names as there.

    moco-v3: main_moco.py, ``AdamW(model.parameters())``. dino: utils.py, ``get_params_groups``. moby: optimizer.py,
    ``set_weight_decay``; its exemptions are read from the attributes ``no_weight_decay`` of the class MoBY, which has none.
    dinov2: param_groups.py; iBOT's utils.py gives the same, where mask token and weight_g are matrices. pixels: SimMIM's
    optimizer.py, with what its models exempt. BYOL and SimCLR exempt biases and batch normalization, all of one dimension;
    on positions and tokens they say nothing.
    """
    if framework == "moco-v3":
        return True
    is_vector = len(parameter.shape) == 1
    if framework == "dinov2":
        return not (name.endswith(".bias") or "norm" in name or "gamma" in name)
    if framework == "dino":
        if name.endswith("projector.lengths"):  # weight_g there, of shape [prototypes, 1]
            is_vector = False
        return not (name.endswith(".bias") or is_vector)
    if framework == "moby":
        return not (is_vector or name.endswith(".bias"))
    tables = ("pos_embed", "cls_token", "relative_position_bias_table", "mask_token.token")
    return not (is_vector or name.endswith(tables))


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_weight_decay_follows_the_authors(framework: str, encoder: str) -> None:
    model = model_of(config_of(framework), encoder)
    groups = pretraining_groups(OptimConfig(), model)
    decays = {id(p): group["use_weight_decay"] for group in groups for p in group["params"]}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert sorted(decays) == sorted(map(id, trained.values()))
    for name, parameter in trained.items():
        if name.startswith("decoder."):
            assert decays[id(parameter)] == (parameter.ndim > 1), name
        else:
            assert decays[id(parameter)] == authors_rule(framework, name, parameter), name
    assert {group["lr_scale"] for group in groups} == {1.0}
    assert [group["use_weight_decay"] for group in groups] == [True, False]


def dinov2_rate(name: str, decay: float, depth: int) -> float:
    """Factor of a ViT's parameter: param_groups.py of DINOv2, in its words. MAE and BEiT count the same."""
    layer = depth + 1
    if any(part in name for part in ("pos_embed", "patch_embed", "cls_token", "reg_token")):
        layer = 0
    elif ".blocks." in name:
        layer = int(name.split(".blocks.")[1].split(".")[0]) + 1
    return decay ** (depth + 1 - layer) * (0.2 if "patch_embed" in name else 1.0)


@pytest.mark.parametrize("pooling", ["token", "avg"])
def test_layers_have_the_learning_rates_of_dinov2(pooling: str) -> None:
    arguments = {"depth": 3, "global_pool": pooling, "reg_tokens": 2}
    model = build_model(
        encoder=replace(ENCODERS["vit"], model_args=arguments),
        framework=config_of("dino"),
        decoder=tiny.DecoderConfig(dim=16),
        reconstruction=tiny.ReconstructionConfig(),
        seed=0,
    )
    model.encoder.mask_token = nn.Parameter(torch.zeros(1, 1, 384))  # what an encoder may add in front of its layers
    config = OptimConfig(lr=1.0, warmup_fraction=0.0, layer_decay=0.9, patch_embed_lr_scale=0.2)
    optimizer = build_pretraining_optimizer(config, model)
    assert set_schedule(optimizer, config, progress=0.0, batch_size=256) == 1.0
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.endswith("mask_token"):
            assert rates[id(parameter)] == pytest.approx(0.9**4)
        elif name.startswith("encoder."):
            assert rates[id(parameter)] == pytest.approx(dinov2_rate(name, 0.9, 3)), name
        else:
            assert rates[id(parameter)] == 1.0, name


def test_stages_of_a_pyramid_learn_ever_faster() -> None:
    model = model_of(config_of("moby"), "swin")
    groups = pretraining_groups(OptimConfig(layer_decay=0.5), model)
    rates = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    named = dict(model.encoder.model.named_parameters())
    order = ["patch_embed.proj.weight", *(f"layers.{stage}.blocks.0.mlp.fc1.weight" for stage in range(4))]
    assert [rates[id(named[name])] for name in order] == [0.5**5, 0.5**4, 0.5**3, 0.5**2, 0.5]
    assert rates[id(named["norm.weight"])] == 1.0


def train(model: RePre, optimizer: torch.optim.Optimizer, config: OptimConfig, framework: str, steps: range) -> None:
    for step in steps:
        views = tiny.tiny_views(framework, "vit", seed=step)
        train_step(model, optimizer, views, optim=config, batch_size=256, progress=step / 8, seed=step)


@pytest.mark.parametrize("framework", ["dino", "moco-v3", "simclr", "dinov2"])
def test_the_encoder_waits_while_heads_and_decoder_learn(framework: str, monkeypatch: pytest.MonkeyPatch) -> None:
    warm: Any = replace(tiny.FRAMEWORKS[framework], head_warmup=0.375)
    monkeypatch.setitem(tiny.FRAMEWORKS, framework, warm)
    model = tiny.tiny_model(framework, "vit")
    config = OptimConfig(lr=1e-2, warmup_fraction=0.25, weight_decay=0.5)
    optimizer = build_pretraining_optimizer(config, model)
    before = copy.deepcopy(model.state_dict())
    train(model, optimizer, config, framework, range(1, 3))
    waiting = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    encoders = {n for n in before if n.startswith(("encoder.", "framework.teacher.encoder."))}
    assert encoders <= waiting
    assert not any(n in waiting for n, p in model.named_parameters() if n.startswith("decoder.") and p.requires_grad)
    assert any(n.startswith("framework.projector") and n not in waiting for n in before)

    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    train(model, optimizer, config, framework, range(3, 6))
    assert not any(torch.equal(p, before[n]) for n, p in model.named_parameters() if "encoder.model.blocks.0.mlp" in n)

    resumed = tiny.tiny_model(framework, "vit", seed=9)
    optimizer = build_pretraining_optimizer(config, resumed)
    resumed.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    train(resumed, optimizer, config, framework, range(3, 6))
    for (name, one), other in zip(model.state_dict().items(), resumed.state_dict().values()):
        assert torch.equal(one, other), name


def test_a_checkpoint_from_before_heads_could_start_alone_is_resumed() -> None:
    """Its groups lack the key; the order and the members of the groups are the same."""
    config = OptimConfig(lr=1e-2, warmup_fraction=0.25)
    model = tiny.tiny_model("byol", "vit")
    optimizer = build_pretraining_optimizer(config, model)
    train(model, optimizer, config, "byol", range(1, 2))
    saved = copy.deepcopy(optimizer.state_dict())
    for group in saved["param_groups"]:
        del group["start"]
    other = copy.deepcopy(model)
    older = build_pretraining_optimizer(config, other)
    older.load_state_dict(saved)
    for each, its_optimizer in ((model, optimizer), (other, older)):
        train(each, its_optimizer, config, "byol", range(2, 4))
    for (name, one), theirs in zip(model.state_dict().items(), other.state_dict().values()):
        assert torch.equal(one, theirs), name


@pytest.mark.parametrize("share", [-0.1, 1.0])
@pytest.mark.parametrize("config", [kind for kind, _ in FRAMEWORKS.values()])
def test_another_share_is_refused(config: type[FrameworkConfig], share: float) -> None:
    with pytest.raises(UserError, match=r"framework\.head_warmup"):
        config(head_warmup=share)
