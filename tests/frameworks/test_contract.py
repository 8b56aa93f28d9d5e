"""Every framework x {tiny ViT, tiny Swin} x {with, without the branch} keeps the contract of frameworks/base.py."""

import copy
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import nn

from repre.frameworks import FRAMEWORKS, MoBYConfig, SimCLR, SimCLRConfig, build_framework, framework_name
from repre.models.repre import RePre
from repre.training.optim import OptimConfig, build_optimizer
from repre.training.step import forward_backward, train_step
from repre.types import Features, FrameworkOutput, Views
from tests import tiny

CASES = [(f, e, w) for f in tiny.FRAMEWORKS for e in tiny.ENCODERS for w in (0.0, 1.0) if w or not tiny.needs(f).branch]
contract = pytest.mark.parametrize(("framework", "encoder", "weight"), CASES)


def one_step(model: RePre, optimizer: torch.optim.Optimizer, step: int, framework: str, encoder: str) -> None:
    train_step(
        model,
        optimizer,
        tiny.tiny_views(framework, encoder, seed=step),
        optim=OptimConfig(warmup_fraction=0.0),
        batch_size=256,
        progress=step / 10,
        seed=step,
    )


def biases_before_batch_norm(model: nn.Module) -> set[str]:
    """Biases that batch normalization removes again, so that their gradient is zero except for rounding."""
    names = set()
    for name, module in model.named_modules():
        if isinstance(module, nn.Sequential):
            for index, layer in enumerate(module[:-1]):
                if isinstance(layer, nn.Linear) and type(module[index + 1]).__name__ == "BatchNorm":
                    names.add(f"{name}.{index}.bias")
    return names


def test_every_framework_of_the_package_is_in_the_contract() -> None:
    ours = {name for name, (config, _) in FRAMEWORKS.items() if config.__module__.startswith("repre.")}
    assert ours == {framework_name(config) for config in tiny.FRAMEWORKS.values()}


@contract
def test_finite_loss_and_a_gradient_on_every_parameter(framework: str, encoder: str, weight: float) -> None:
    model = tiny.tiny_model(framework, encoder, weight=weight)
    losses = forward_backward(model, tiny.tiny_views(framework, encoder), progress=0.5, seed=0)
    assert losses.total.isfinite()
    assert (losses.pixel is None) == (weight == 0)
    exempt = biases_before_batch_norm(model)
    before_the_norm = tiny.needs(framework).branch  # where the maps are taken
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or (before_the_norm and name.startswith("encoder.model.norm.")):
            continue
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if name not in exempt:
            assert parameter.grad.abs().max() > 1e-12, name


@pytest.mark.parametrize(("framework", "encoder"), [(f, e) for f in tiny.FRAMEWORKS for e in tiny.ENCODERS])
def test_views_that_are_not_square_train_and_are_cut_into_pieces(framework: str, encoder: str) -> None:
    """Half as wide again as high: the gradient is that of the batch in pieces, and pictures have the shape of the views."""
    side = tiny.SIDES[encoder]
    model = tiny.tiny_model(framework, encoder, image_size=(side, 3 * side // 2), masked=True).double()
    views = tiny.double(tiny.tiny_views(framework, encoder, columns=1.5, masked=True, local_share=1))
    whole = forward_backward(model, views, progress=0.5, seed=0)
    assert whole.pixel is not None
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert {name.partition(".")[0] for name in gradients} >= {"encoder", "decoder"}
    model.zero_grad(set_to_none=True)
    pieces = forward_backward(model, views, progress=0.5, seed=0, micro_batch=2)
    torch.testing.assert_close(pieces.total, whole.total)
    for name, parameter in model.named_parameters():
        if name in gradients:
            torch.testing.assert_close(parameter.grad, gradients[name], msg=name)
    assert model.reconstruct(views.images[0]).shape == views.images[0].shape


@contract
def test_loss_has_no_side_effect_and_backward_leaves_the_teacher(framework: str, encoder: str, weight: float) -> None:
    model = tiny.tiny_model(framework, encoder, weight=weight)
    before = copy.deepcopy(model.state_dict())
    views = tiny.tiny_views(framework, encoder)
    first = forward_backward(model, views, progress=0.5, seed=0)
    again = forward_backward(model, views, progress=0.5, seed=0)
    assert torch.equal(first.total, again.total)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    teacher = [p for name, p in model.framework.named_parameters() if name.startswith("teacher.")]
    assert bool(teacher) == (framework not in tiny.WITHOUT_TEACHER)
    assert all(p.grad is None and not p.requires_grad for p in teacher)


@contract
def test_resume_is_bit_equal(framework: str, encoder: str, weight: float) -> None:
    config = OptimConfig(lr=1e-2, warmup_fraction=0.0)
    straight = tiny.tiny_model(framework, encoder, weight=weight)
    optimizer = build_optimizer(config, straight)
    for step in range(2):
        one_step(straight, optimizer, step, framework, encoder)
    saved = copy.deepcopy((straight.state_dict(), optimizer.state_dict()))
    one_step(straight, optimizer, 2, framework, encoder)

    resumed = tiny.tiny_model(framework, encoder, weight=weight, seed=99)
    optimizer = build_optimizer(config, resumed)
    resumed.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    one_step(resumed, optimizer, 2, framework, encoder)
    for (name, one), other in zip(straight.state_dict().items(), resumed.state_dict().values()):
        assert torch.equal(one, other), name


@contract
def test_training_moves_teacher_and_student(framework: str, encoder: str, weight: float) -> None:
    model = tiny.tiny_model(framework, encoder, weight=weight)
    before = copy.deepcopy(model.state_dict())
    optimizer = build_optimizer(OptimConfig(lr=1e-2, warmup_fraction=0.0), model)
    one_step(model, optimizer, 0, framework, encoder)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert any(name.startswith("encoder.") for name in moved)
    assert any(name.startswith("framework.teacher.encoder") for name in moved) == (
        framework not in tiny.WITHOUT_TEACHER
    )


@pytest.mark.parametrize("framework", tiny.FRAMEWORKS)
@pytest.mark.parametrize("encoder", tiny.ENCODERS)
@pytest.mark.parametrize("hidden", ["nothing", "token", "pixels"])
def test_gradient_cache_equals_the_whole_batch(framework: str, encoder: str, hidden: str) -> None:
    views = tiny.double(tiny.tiny_views(framework, encoder, batch=5, masked=hidden != "nothing", local_share=1))
    whole, pieces = (
        tiny.tiny_model(framework, encoder, drop_path=0.3, masked=hidden == "token").double() for _ in range(2)
    )
    one = forward_backward(whole, views, progress=0.5, seed=0)
    other = forward_backward(pieces, views, progress=0.5, seed=0, micro_batch=2)
    torch.testing.assert_close(one.total.detach(), other.total.detach(), rtol=1e-12, atol=1e-12)
    for (name, a), b in zip(whole.named_parameters(), pieces.parameters()):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("framework", ["moco-v3", "dino"])
@pytest.mark.parametrize("encoder", tiny.ENCODERS)
@pytest.mark.parametrize("micro_batch", [0, 2])
def test_a_branch_that_has_ended_leaves_the_plain_framework(framework: str, encoder: str, micro_batch: int) -> None:
    views = tiny.tiny_views(framework, encoder, masked=True)
    plain, ended = (
        tiny.tiny_model(framework, encoder, weight=weight, masked=True, reconstruction={"end_fraction": 0.5})
        for weight in (0.0, 1.0)
    )
    assert forward_backward(ended, views, progress=0.49, seed=0, micro_batch=micro_batch).pixel is not None
    ended.zero_grad()
    one, other = (forward_backward(m, views, progress=0.5, seed=0, micro_batch=micro_batch) for m in (plain, ended))
    assert other.pixel is None
    assert torch.equal(one.total, other.total)  # no patch is hidden any more, either
    theirs = dict(ended.named_parameters())
    for name, parameter in plain.named_parameters():
        if parameter.grad is not None:
            assert torch.equal(parameter.grad, theirs[name].grad), name  # type: ignore[arg-type]
    assert ended.decoder is not None
    assert all(parameter.grad is None for parameter in ended.decoder.parameters())


@pytest.mark.parametrize("encoder", tiny.ENCODERS)
@pytest.mark.parametrize("micro_batch", [0, 2])
def test_activation_checkpointing_changes_no_gradient(encoder: str, micro_batch: int) -> None:
    """Blocks are run again in the backward pass, after other views drew: drop path has to find its draws again."""
    views = tiny.double(tiny.tiny_views("dino", encoder, batch=5, local_share=1))
    plain, again = (
        tiny.tiny_model("dino", encoder, drop_path=0.3, grad_checkpointing=on).double() for on in (False, True)
    )
    for model in (plain, again):
        forward_backward(model, views, progress=0.5, seed=0, micro_batch=micro_batch)
    for (name, a), b in zip(plain.named_parameters(), again.parameters()):
        if a.requires_grad:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("framework", tiny.FRAMEWORKS)
def test_weight_zero_is_the_plain_framework_bit_for_bit(framework: str) -> None:
    """The branch's decoder draws from a generator of its own: encoder, heads and contrastive loss start out the same."""
    plain, branch = tiny.tiny_model(framework, "vit", weight=0.0), tiny.tiny_model(framework, "vit", weight=1.0)
    assert plain.decoder is None
    names = set(plain.state_dict())
    assert names == {name for name in branch.state_dict() if not name.startswith("decoder.")}
    for name in names:
        assert torch.equal(plain.state_dict()[name], branch.state_dict()[name]), name
    views = tiny.tiny_views(framework, "vit")
    one, other = plain(views, progress=0.1), branch(views, progress=0.1)
    assert torch.equal(one.total, other.contrastive)
    assert torch.equal(one.total, one.contrastive)


class Table(nn.Module):
    """Stands in for an encoder whose features are given."""

    patch_dim = 32

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor, *, maps: bool = True) -> Features:
        return Features(x)


@pytest.mark.parametrize(("batch", "queue"), [(4, 12), (4, 10), (5, 3)])
def test_moby_queue_is_a_ring_of_the_last_keys(batch: int, queue: int) -> None:
    """Also where the queue is no multiple of the batch, and where it is smaller than the batch."""
    encoder = Table()
    framework = build_framework(MoBYConfig(queue=queue, hidden_dim=8, out_dim=4), encoder, embedding_dim=6)
    history: list[torch.Tensor] = []
    for step in range(7):
        features = [Features(torch.randn(batch, 6)) for _ in range(2)]
        output = framework.loss(features, features, Views(images=[], targets=[], n_global=2), 0.0)
        framework.after_step(encoder, output, 0.0)
        history += list(output.state["keys"][0])
        if len(history) >= queue:
            expected = {tuple(key.tolist()) for key in history[-queue:]}
            assert {tuple(key.tolist()) for key in framework.queues[0]} == expected, step


class Broken(SimCLR):
    """A framework whose output is at fault."""

    fault: ClassVar[str]

    def loss(self, student: list[Features], teacher: list[Features], views: Views, progress: float) -> FrameworkOutput:
        output = super().loss(student, teacher, views, progress)
        if self.fault == "tuple":
            return output.loss, {"embedding": output.embedding}  # type: ignore[return-value]
        if self.fault == "no embedding":
            return FrameworkOutput(loss=output.loss)  # type: ignore[call-arg]
        if self.fault == "projection":
            return replace(output, embedding=output.embedding[:, :4])
        return replace(output, metrics={"similarity": output.embedding})


@dataclass(frozen=True, kw_only=True)
class BrokenConfig(SimCLRConfig):
    """Settings of `Broken`."""


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("tuple", "must return a FrameworkOutput.*not tuple"),
        ("no embedding", "embedding"),
        ("projection", r"embedding must be the student's, \[B, 32\], not \[2, 4\]"),
        ("metric", r"similarity must be a scalar, not \[2, 32\]"),
    ],
)
def test_a_faulty_output_is_found_when_the_framework_is_built(
    monkeypatch: pytest.MonkeyPatch, fault: str, message: str
) -> None:
    monkeypatch.setitem(FRAMEWORKS, "broken", (BrokenConfig, Broken))
    monkeypatch.setattr(Broken, "fault", fault, raising=False)
    with pytest.raises(TypeError, match=message):
        build_framework(BrokenConfig(hidden_dim=8, out_dim=4), nn.Identity(), embedding_dim=32)


@pytest.mark.parametrize("framework", tiny.FRAMEWORKS)
def test_building_a_framework_leaves_random_numbers_alone(framework: str) -> None:
    """The check of the output must not move the global generator: initial weights depend on it."""
    torch.manual_seed(0)
    FRAMEWORKS[framework_name(tiny.FRAMEWORKS[framework])][1](tiny.FRAMEWORKS[framework], Table(), embedding_dim=32)
    expected = torch.rand(3)
    torch.manual_seed(0)
    build_framework(tiny.FRAMEWORKS[framework], Table(), embedding_dim=32)
    assert torch.equal(torch.rand(3), expected)
