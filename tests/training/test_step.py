"""The order of a step, what travels in its status, float16, and what may be cut into pieces."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from repre.errors import UserError
from repre.models.encoder import Encoder, EncoderConfig
from repre.models.repre import ReconstructionConfig, RePre
from repre.training import step
from repre.training.optim import OptimConfig, build_optimizer, set_schedule
from repre.training.step import StepResult, forward_backward, train_step, validate_micro_batch
from repre.types import Views
from tests import tiny

PLAIN = ReconstructionConfig()


def test_layer_normalization_may_be_cut() -> None:
    validate_micro_batch(Encoder(tiny.ENCODERS["vit"]), PLAIN, micro_batch=2)


def test_batch_normalization_and_dropout_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    normalized = Encoder(EncoderConfig(name="resnet18", image_size=32))
    validate_micro_batch(normalized, PLAIN, micro_batch=0)
    with pytest.raises(UserError, match=r"micro_batch.*model\.bn1.*normalizes over the batch"):
        validate_micro_batch(normalized, PLAIN, micro_batch=2)
    monkeypatch.setattr(step, "world_size", lambda: 2)
    with pytest.raises(UserError, match=r"several processes.*model\.bn1"):
        validate_micro_batch(normalized, PLAIN, micro_batch=0)
    dropping = Encoder(tiny.ENCODERS["vit"])
    dropping.model.norm = torch.nn.Dropout(0.1)
    validate_micro_batch(dropping, PLAIN, micro_batch=0)
    with pytest.raises(UserError, match=r"model\.norm.*dropout of 0\.1"):
        validate_micro_batch(dropping, PLAIN, micro_batch=2)


def test_balanced_gradients_need_the_whole_batch() -> None:
    encoder = Encoder(tiny.ENCODERS["vit"])
    validate_micro_batch(encoder, ReconstructionConfig(balance=1.0), micro_batch=0)
    with pytest.raises(UserError, match=r"micro_batch cuts the batch, but reconstruction\.balance"):
        validate_micro_batch(encoder, ReconstructionConfig(balance=1.0), micro_batch=2)


@pytest.mark.parametrize(
    ("framework", "encoder", "micro_batch"),
    [("moco-v3", "vit", 0), ("dino", "vit", 2), ("moby", "swin", 0), ("dinov2", "vit", 2), ("ibot", "swin", 0)],
)
def test_a_compiled_step_is_the_eager_step(framework: str, encoder: str, micro_batch: int) -> None:
    """Of the same operations, so all gradients are equal but for the order of sums: also with drop path, a part of which the
    backward pass computes again."""
    compiler_is_new()
    model = tiny.tiny_model(framework, encoder, drop_path=0.4).double()
    views = tiny.double(tiny.tiny_views(framework, encoder, local_share=1))
    eager = gradients(model, views, micro_batch)
    model.compile_step(backend="aot_eager")
    compiled = gradients(model, views, micro_batch)
    assert eager.keys() == compiled.keys()
    for name, gradient in eager.items():
        torch.testing.assert_close(compiled[name], gradient, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize(("framework", "encoder"), [("moco-v3", "vit"), ("dino", "vit"), ("moby", "swin")])
def test_a_compiled_step_under_autocast_is_not_broken_into_smaller_graphs(framework: str, encoder: str) -> None:
    compiler_is_new()
    model = tiny.tiny_model(framework, encoder, drop_path=0.4)
    model.compile_step(backend="aot_eager")
    views = tiny.tiny_views(framework, encoder)
    loss = forward_backward(model, views, progress=0.5, seed=3, precision=torch.bfloat16).total
    assert loss.isfinite()
    assert not counters["graph_break"]
    # encoder for both views, teacher, branch; DINO: also the local views, and its sums
    assert counters["stats"]["unique_graphs"] == (5 if framework == "dino" else 3)


def compiler_is_new() -> None:
    torch.compiler.reset()
    counters.clear()


def gradients(model: RePre, views: Views, micro_batch: int) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    forward_backward(model, views, progress=0.5, seed=3, micro_batch=micro_batch)
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


OPTIM = OptimConfig(lr=1e-2, warmup_fraction=0.0, clip_grad_norm=0.5)


def one_step(model: RePre, views: Views, **settings: Any) -> StepResult:
    optimizer = build_optimizer(OPTIM, model)
    return train_step(model, optimizer, views, optim=OPTIM, batch_size=256, progress=0.25, seed=3, **settings)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_a_step_is_schedule_gradient_clip_hooks_and_optimizer_in_this_order() -> None:
    """Against the parts called by hand, the hook `before_step` changing what the optimizer sees."""
    views = tiny.tiny_views("moco-v3", "vit")
    model, by_hand = (tiny.tiny_model("moco-v3", "vit") for _ in range(2))
    order: list[str] = []
    for each in (model, by_hand):
        each.framework.before_step = partial(_double_gradients, each, order)  # type: ignore[method-assign]
    result = one_step(model, views, overlap=lambda: order.append("overlap"))
    assert order == ["overlap", "before_step"]

    optimizer = build_optimizer(OPTIM, by_hand)
    set_schedule(optimizer, OPTIM, progress=0.25, batch_size=256)
    losses = forward_backward(by_hand, views, progress=0.25, seed=3)
    norm = nn.utils.clip_grad_norm_(by_hand.parameters(), 0.5)
    _double_gradients(by_hand, [], 0.25)
    optimizer.step()
    by_hand.framework.after_step(by_hand.encoder, losses.output, 0.25)
    assert result.loss == float(losses.total.detach())
    assert result.grad_norm == pytest.approx(float(norm), rel=1e-6)
    assert result.lr == OPTIM.lr_at(0.25, batch_size=256)
    assert result.finite
    for name, value in by_hand.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-5, atol=1e-7, msg=name)
    assert all(parameter.grad is None for parameter in model.parameters())


def _double_gradients(model: nn.Module, order: list[str], progress: float) -> None:
    order.append("before_step")
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.mul_(2)


@pytest.mark.parametrize("micro_batch", [0, 2])
def test_a_step_that_is_not_finite_leaves_the_weights_and_keeps_the_gradients(micro_batch: int) -> None:
    model = tiny.tiny_model("moby", "vit")
    views = tiny.tiny_views("moby", "vit")
    views.images[0][1, 0, 0, 0] = float("nan")
    before = weights(model)
    result = one_step(model, views, micro_batch=micro_batch, flags=(True, False))
    assert not result.finite
    assert result.flags == (True, False)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert any(p.grad is not None and not p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("micro_batch", [0, 2])
def test_float16_scales_the_loss_and_gives_the_unscaled_gradient(micro_batch: int) -> None:
    """A scaled step equals one without a scale; the norm that is reported and clipped is the unscaled one."""
    views = tiny.tiny_views("moco-v3", "vit")
    plain, scaled = (tiny.tiny_model("moco-v3", "vit") for _ in range(2))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    expected = one_step(plain, views, micro_batch=micro_batch)
    result = one_step(scaled, views, micro_batch=micro_batch, scaler=scaler)
    assert result.loss == expected.loss
    assert result.grad_norm == pytest.approx(expected.grad_norm, rel=1e-4)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(scaled.state_dict()[name], value, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("micro_batch", [0, 2])
def test_an_overflow_in_float16_skips_the_step_and_halves_the_scale(micro_batch: int) -> None:
    """Also under autocast to float16, whose gradients overflow for real at a huge scale."""
    model, views = tiny.tiny_model("moco-v3", "vit"), tiny.tiny_views("moco-v3", "vit")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before = weights(model)
    result = one_step(model, views, micro_batch=micro_batch, scaler=scaler, precision=torch.float16)
    assert math.isfinite(result.loss)
    assert not result.finite
    assert scaler.get_scale() == 2.0**39
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    while not result.finite:
        result = one_step(model, views, micro_batch=micro_batch, scaler=scaler, precision=torch.float16)
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("framework", ["moco-v3", "dino"])
def test_pieces_in_float16_give_the_step_of_the_whole_batch(framework: str) -> None:
    """Up to the rounding of float16, with clipping, which would act on gradients that are not unscaled."""
    views = tiny.tiny_views(framework, "vit", batch=6)
    results, steps = [], []
    for micro_batch in (0, 2):
        model = tiny.tiny_model(framework, "vit")
        before = weights(model)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
        results.append(one_step(model, views, micro_batch=micro_batch, scaler=scaler, precision=torch.float16))
        assert scaler.get_scale() == 2.0**8
        steps.append({name: value - before[name] for name, value in model.state_dict().items()})
    assert all(result.finite for result in results)
    assert results[0].grad_norm > 0.5  # it is clipped
    assert results[1].loss == pytest.approx(results[0].loss, rel=1e-3)
    assert results[1].grad_norm == pytest.approx(results[0].grad_norm, rel=2e-2)
    whole, pieces = (torch.cat([value.flatten().double() for value in step.values()]) for step in steps)
    assert float(torch.cosine_similarity(whole, pieces, dim=0)) > 0.98
