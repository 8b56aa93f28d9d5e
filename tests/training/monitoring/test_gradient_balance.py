"""The gradients of the two losses: equal to two whole backward passes, computed without leaving a trace."""

import copy

import pytest
import torch

from repre.training.monitoring.gradient_balance import describe_balance, gradient_balance
from repre.training.monitoring.limits import BLOCKS
from tests import tiny


@pytest.mark.parametrize("framework", [name for name in tiny.FRAMEWORKS if not tiny.needs(name).branch])
def test_equal_to_two_whole_backward_passes(framework: str) -> None:
    model, views = tiny.tiny_model(framework, "vit").eval(), tiny.tiny_views(framework, "vit", batch=6)
    metrics = gradient_balance(model, views, progress=0.0)
    gradients = []
    for loss in ("contrastive", "pixel"):
        replica = copy.deepcopy(model)
        getattr(replica(views, progress=0.0), loss).backward()
        blocks = replica.encoder.model.blocks
        groups = (
            [*blocks[0].parameters()],
            [*blocks[1].parameters()],
            [*blocks[3].parameters(), *replica.encoder.model.norm.parameters()],
        )
        gradients.append(
            [
                torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in group])
                for group in groups
            ]
        )
    for block, contrastive, pixel in zip(BLOCKS, *gradients):
        assert metrics[f"gradient_contrastive_{block}"] == pytest.approx(float(contrastive.norm()), rel=1e-4)
        assert metrics[f"gradient_pixel_{block}"] == pytest.approx(float(pixel.norm()), rel=1e-4)
        cosine = float(torch.cosine_similarity(contrastive, pixel, dim=0))
        assert metrics[f"gradient_cosine_{block}"] == pytest.approx(cosine, abs=1e-4)
    largest = max(metrics[f"gradient_pixel_{b}"] / metrics[f"gradient_contrastive_{b}"] for b in BLOCKS)
    assert metrics["gradient_ratio"] == pytest.approx(largest)


@pytest.mark.parametrize("masked", [False, True])
def test_without_a_loss_of_the_framework_only_the_branch_has_norms(masked: bool) -> None:
    model = tiny.tiny_model("pixels", "vit", masked=masked).eval()
    views = tiny.tiny_views("pixels", "vit", masked=masked)
    metrics = gradient_balance(model, views, progress=0.0)
    assert set(metrics) == {f"gradient_pixel_{block}" for block in BLOCKS}
    model(views, progress=0.0).total.backward()
    blocks = model.encoder.model.blocks
    for name, block in zip(BLOCKS, (blocks[0], blocks[1], blocks[3])):
        norm = sum(float(p.grad.square().sum()) for p in block.parameters()) ** 0.5  # type: ignore[union-attr]
        assert metrics[f"gradient_pixel_{name}"] == pytest.approx(norm, rel=1e-4)
    assert describe_balance(metrics) is None


def test_the_ratio_of_a_balanced_branch_follows_the_balance_not_the_weight() -> None:
    views = tiny.tiny_views("simclr", "vit", batch=6)
    plain, heavy, quadruple = (
        gradient_balance(
            tiny.tiny_model("simclr", "vit", weight=weight, reconstruction={"balance": balance}).eval(),
            views,
            progress=0.0,
        )
        for weight, balance in ((1.0, 1.0), (30.0, 1.0), (1.0, 4.0))
    )
    assert heavy["gradient_ratio"] == pytest.approx(plain["gradient_ratio"], rel=1e-3)
    assert quadruple["gradient_ratio"] == pytest.approx(4 * plain["gradient_ratio"], rel=1e-3)
    assert quadruple["gradient_contrastive_first"] == pytest.approx(plain["gradient_contrastive_first"], rel=1e-3)


def test_the_weight_scales_the_ratio() -> None:
    views = tiny.tiny_views("simclr", "vit", batch=6)
    light, heavy = (
        gradient_balance(tiny.tiny_model("simclr", "vit", weight=weight).eval(), views, progress=0.0)
        for weight in (1.0, 50.0)
    )
    assert heavy["gradient_ratio"] == pytest.approx(50 * light["gradient_ratio"], rel=1e-5)
    assert heavy["gradient_cosine_first"] == pytest.approx(light["gradient_cosine_first"], abs=1e-5)


def test_there_is_no_balance_without_the_branch_or_after_its_end() -> None:
    views = tiny.tiny_views("simclr", "vit", batch=6)
    assert gradient_balance(tiny.tiny_model("simclr", "vit", weight=0.0).eval(), views, progress=0.0) == {}
    model = tiny.tiny_model("simclr", "vit", reconstruction={"end_fraction": 0.5}).eval()
    assert gradient_balance(model, views, progress=0.4)
    assert gradient_balance(model, views, progress=0.5) == {}


def test_no_trace() -> None:
    model, views = tiny.tiny_model("moby", "vit").eval(), tiny.tiny_views("moby", "vit", batch=6, masked=True)
    weights, random_state = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    with torch.no_grad():  # as in a validation
        gradient_balance(model, views, progress=0.3)
    assert all(bool((p.grad == 1).all()) for p in model.parameters())
    assert torch.equal(random_state, torch.random.get_rng_state())
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name]), name


@pytest.mark.parametrize(
    ("ratio", "cosine", "parts"),
    [
        (50.0, 0.1, ["drowns", "divide reconstruction.weight by about 50"]),
        (1e-5, 0.1, ["changes little", "multiply reconstruction.weight by ten"]),
        (0.014, 0.1, ["changes little", "only 0.014 times"]),
        (0.5, 0.1, ["both losses train"]),
        (0.5, -0.9, ["both losses train", "pull against each other at the middle block"]),
    ],
)
def test_the_description_gives_advice(ratio: float, cosine: float, parts: list[str]) -> None:
    metrics: dict[str, float | None] = {f"gradient_cosine_{block}": 0.0 for block in BLOCKS}
    description = describe_balance(metrics | {"gradient_ratio": ratio, "gradient_cosine_middle": cosine})
    assert description is not None
    assert all(part in description for part in parts)
    assert ("pull against" in description) == (cosine < -0.5)


def test_without_metrics_there_is_no_description() -> None:
    assert describe_balance({"rankme": 3.0}) is None
    assert describe_balance({"gradient_ratio": None, "gradient_cosine_first": None}) is None
