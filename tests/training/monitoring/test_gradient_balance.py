"""The gradients of the two losses: equal to those of a whole backward pass, taken without leaving a trace."""

import copy

import pytest
import torch

from repre.models.repre import RePre
from repre.training.monitoring.gradient_balance import PLACES, advice, balance
from tests import tiny


def model_and_views(framework: str, **kwargs: bool) -> tuple[RePre, object]:
    return tiny.tiny_model(framework, "vit").eval(), tiny.tiny_views(framework, "vit", batch=6, **kwargs)


@pytest.mark.parametrize("framework", tiny.FRAMEWORKS)
def test_equal_to_two_whole_backward_passes(framework: str) -> None:
    model, views = model_and_views(framework)
    found = balance(model, views, progress=0.0)
    gradients = []
    for loss in ("contrastive", "pixel"):
        replica = copy.deepcopy(model)
        getattr(replica(views, progress=0.0), loss).backward()
        blocks = replica.encoder.model.blocks
        gradients.append(
            [
                torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in group])
                for group in (
                    [*blocks[0].parameters()],
                    [*blocks[1].parameters()],
                    [*blocks[3].parameters(), *replica.encoder.model.norm.parameters()],
                )
            ]
        )
    for place, one, other in zip(PLACES, *gradients):
        assert found[f"gradient_contrastive_{place}"] == pytest.approx(float(one.norm()), rel=1e-4)
        assert found[f"gradient_pixel_{place}"] == pytest.approx(float(other.norm()), rel=1e-4)
        cosine = float(torch.cosine_similarity(one, other, dim=0))
        assert found[f"gradient_cosine_{place}"] == pytest.approx(cosine, abs=1e-4)
    largest = max(found[f"gradient_pixel_{p}"] / found[f"gradient_contrastive_{p}"] for p in PLACES)
    assert found["gradient_ratio"] == pytest.approx(largest)


def test_a_balanced_branch_is_shown_balanced() -> None:
    views = tiny.tiny_views("simclr", "vit", batch=6)
    found = [
        balance(tiny.tiny_model("simclr", "vit", weight=w, reconstruction={"balance": b}).eval(), views, progress=0.0)
        for w, b in ((1.0, 1.0), (30.0, 1.0), (1.0, 4.0))
    ]
    assert found[1]["gradient_ratio"] == pytest.approx(found[0]["gradient_ratio"], rel=1e-3)
    assert found[2]["gradient_ratio"] == pytest.approx(4 * found[0]["gradient_ratio"], rel=1e-3)
    assert found[2]["gradient_contrastive_first"] == pytest.approx(found[0]["gradient_contrastive_first"], rel=1e-3)


def test_a_branch_that_has_ended_has_no_balance() -> None:
    model = tiny.tiny_model("simclr", "vit", reconstruction={"until": 0.5}).eval()
    views = tiny.tiny_views("simclr", "vit", batch=6)
    assert balance(model, views, progress=0.4)
    assert balance(model, views, progress=0.5) == {}


def test_no_trace() -> None:
    model, views = model_and_views("moby", masked=True)
    before, state = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    with torch.no_grad():  # as in a look
        balance(model, views, progress=0.3)
    assert all(bool((p.grad == 1).all()) for p in model.parameters())
    assert torch.equal(state, torch.random.get_rng_state())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_weight_scales_the_ratio() -> None:
    views = tiny.tiny_views("simclr", "vit", batch=6)
    one, other = (balance(tiny.tiny_model("simclr", "vit", weight=w).eval(), views, progress=0.0) for w in (1.0, 50.0))
    assert other["gradient_ratio"] == pytest.approx(50 * one["gradient_ratio"], rel=1e-5)
    assert other["gradient_cosine_first"] == pytest.approx(one["gradient_cosine_first"], abs=1e-5)
    assert balance(tiny.tiny_model("simclr", "vit", weight=0.0).eval(), views, progress=0.0) == {}


@pytest.mark.parametrize(
    ("ratio", "cosine", "words"),
    [
        (50.0, 0.1, ["drowns", "divide reconstruction.weight by about 50"]),
        (1e-5, 0.1, ["changes little", "ten times"]),
        (0.5, 0.1, ["both losses move"]),
        (0.5, -0.9, ["both losses move", "pull against each other at the middle block"]),
    ],
)
def test_advice(ratio: float, cosine: float, words: list[str]) -> None:
    figures = {f"gradient_cosine_{place}": 0.0 for place in PLACES} | {
        "gradient_ratio": ratio,
        "gradient_cosine_middle": cosine,
    }
    said = advice(figures)
    assert said is not None
    assert all(word in said for word in words)
    assert ("pull against" in said) == (cosine < -0.5)


def test_no_figures_no_advice() -> None:
    assert advice({"rankme": 3.0}) is None
    assert advice({"gradient_ratio": None, "gradient_cosine_first": None}) is None
