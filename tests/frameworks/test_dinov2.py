"""DINOv2's loss against slow loops, term by term; hidden patches, centers, pieces and settings that are off."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from repre.errors import UserError
from repre.frameworks import dinov2, prototype_sums
from repre.frameworks.dinov2 import DINOv2, DINOv2Config
from repre.types import Features, FrameworkOutput, Views
from tests.oracles import losses as slow

SMALL = DINOv2Config(hidden_dim=12, bottleneck_dim=4, prototypes=7)
VARIANTS = {
    "dinov2": SMALL,
    "own head": replace(SMALL, shared_head=False, norm_last_layer=True),
    "sinkhorn": replace(SMALL, centering="sinkhorn", ibot_weight=0.5),
    "ibot": replace(SMALL, koleo_weight=0.0, patch_center="all", patch_temperature=0.05),
}
ENCODER = nn.Linear(1, 1).double()
"""Stands in for an encoder: the features are given."""
BATCH, DIM, GRID = 5, 6, (2, 3)
MASKS = torch.tensor([[1, 0, 1, 0, 0, 1], [0] * 6, [0, 1, 0, 0, 0, 0], [1] * 6, [0] * 6]).bool()


def build(config: DINOv2Config) -> DINOv2:
    torch.manual_seed(0)
    framework = DINOv2(config, ENCODER, embedding_dim=DIM).double()
    for parameter in framework.teacher.projector.parameters():  # a teacher unlike the student
        parameter.add_(0.05 * torch.randn_like(parameter))
    if config.centering == "centering":
        framework.center.normal_(std=0.02)
        framework.patch_center.normal_(std=0.02)
    return framework


def draw() -> tuple[list[Features], list[Features], Views]:
    """Features of the student for two global and two local views, of the teacher for the global ones, and the masks."""
    generator = torch.Generator().manual_seed(1)

    def features(patches: bool, train: bool) -> Features:
        shapes = [(BATCH, DIM), (BATCH, GRID[0] * GRID[1], DIM)][: 2 if patches else 1]
        return Features(
            *(torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_(train) for s in shapes)
        )

    student = [features(view < 2, True) for view in range(4)]
    teacher = [features(True, False) for _ in range(2)]
    masks = [MASKS.view(BATCH, *GRID), MASKS.flip(0).view(BATCH, *GRID)]
    return student, teacher, Views(images=[], targets=[], n_global=2, masks=masks)


def targets_of(logits: list[Tensor], center: Tensor | None, temperature: float) -> list[list[list[Tensor]]]:
    """The teacher's distributions of several lists of rows; Sinkhorn-Knopp takes all rows together."""
    if center is not None:
        return [slow.centered(rows, center, temperature) for rows in logits]
    balanced = slow.sinkhorn_knopp([row for rows in logits for row in rows], temperature)
    return [[balanced.pop(0) for _ in rows] for rows in logits]


def oracle(framework: DINOv2, student: list[Features], teacher: list[Features], views: Views) -> dict[str, Tensor]:
    """The terms, at the end of the run."""
    c = framework.config
    head, teachers = framework.projector, framework.teacher.projector
    assert isinstance(teachers, nn.ModuleDict)
    own = "views" if c.shared_head else "patches"
    center, patch_center = (framework.center, framework.patch_center) if c.centering == "centering" else (None, None)
    with torch.no_grad():
        targets = targets_of([teachers["views"](view.embedding) for view in teacher], center, c.teacher_temperature)
        masks = torch.cat(views.masks or []).flatten(1)
        patches = teachers[own](torch.cat([view.patches for view in teacher]).flatten(0, 1)).unflatten(0, masks.shape)
        hidden = targets_of([image[mask] for image, mask in zip(patches, masks)], patch_center, c.patch_temperature)
    of_patches = [{j: rows.pop(0) for j in range(len(mask)) if mask[j]} for rows, mask in zip(hidden, masks)]
    logits = head[own](torch.cat([view.patches for view in student[:2]]).flatten(0, 1)).unflatten(0, masks.shape)
    terms = {
        "dino": slow.dino_of_targets([head["views"](view.embedding) for view in student], targets, 0.1),
        "ibot": slow.ibot_patch(logits, of_patches, masks, 0.1),
    }
    if c.koleo_weight:
        terms["koleo"] = sum(slow.koleo(view.embedding, view.embedding) for view in student[:2])  # type: ignore[assignment]
    return terms


def gradients(framework: DINOv2, student: list[Features], loss: Tensor) -> dict[str, Tensor]:
    wanted = dict(framework.projector.named_parameters())
    for number, view in enumerate(student):
        wanted |= {f"embedding {number}": view.embedding}
        wanted |= {} if view.patches is None else {f"patches {number}": view.patches}
    return dict(zip(wanted, torch.autograd.grad(loss, list(wanted.values()), allow_unused=False)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_all_terms_equal_slow_loops(variant: str) -> None:
    framework, (student, teacher, views) = build(VARIANTS[variant]), draw()
    c = framework.config
    output = framework.loss(student, teacher, views, 1.0)
    terms = oracle(framework, student, teacher, views)
    assert output.terms.keys() == terms.keys()
    for name, term in terms.items():
        torch.testing.assert_close(output.terms[name], term.detach(), rtol=1e-11, atol=1e-12)
    loss = terms["dino"] + c.ibot_weight * terms["ibot"] + c.koleo_weight * terms.get("koleo", torch.zeros(()))
    torch.testing.assert_close(output.loss, loss, rtol=1e-11, atol=1e-12)
    expected = gradients(framework, student, loss)
    for name, gradient in gradients(framework, student, output.loss).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-8, atol=1e-11, msg=name)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_patch_loss_sees_hidden_patches_alone(variant: str) -> None:
    framework, (student, teacher, views) = build(VARIANTS[variant]), draw()
    loss = framework.loss(student, teacher, views, 0.5).loss
    changed = []
    for view, mask in zip(student[:2], views.masks or []):
        assert view.patches is not None
        noise = torch.randn_like(view.patches) * ~mask.flatten(1)[..., None]
        changed.append(Features(view.embedding, view.patches + noise))
        (gradient,) = torch.autograd.grad(loss, view.patches, retain_graph=True)
        assert torch.equal(gradient.abs().sum(-1) > 0, mask.flatten(1))
    assert torch.equal(framework.loss([*changed, *student[2:]], teacher, views, 0.5).loss, loss)


@pytest.mark.parametrize("patch_center", ["masked", "all"])
def test_centers_follow_the_mean_of_the_teachers_logits(patch_center: Any) -> None:
    framework, (student, teacher, views) = build(replace(SMALL, patch_center=patch_center)), draw()
    head, before = framework.teacher.projector, [framework.center.clone(), framework.patch_center.clone()]
    assert isinstance(head, nn.ModuleDict)
    means = [torch.cat([head["views"](view.embedding) for view in teacher]).mean(0)]
    patches = head["views"](torch.cat([view.patches for view in teacher]).flatten(0, 1))
    masked = torch.cat(views.masks or []).flatten()
    means.append((patches[masked] if patch_center == "masked" else patches).mean(0))
    framework.after_step(ENCODER, framework.loss(student, teacher, views, 0.5), 0.5)
    for center, old, mean in zip((framework.center, framework.patch_center), before, means):
        torch.testing.assert_close(center, 0.9 * old + 0.1 * mean, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("variant", VARIANTS)
def test_views_without_any_hidden_patch(variant: str) -> None:
    framework, (student, teacher, views) = build(VARIANTS[variant]), draw()
    views = replace(views, masks=[torch.zeros(BATCH, *GRID, dtype=torch.bool)] * 2)
    output = framework.loss(student, teacher, views, 0.5)
    assert output.terms["ibot"] == 0
    output.loss.backward()
    assert student[0].embedding.grad is not None
    assert student[0].embedding.grad.isfinite().all()
    if framework.config.patch_center == "masked" and framework.config.centering == "centering":
        before = framework.patch_center.clone()
        framework.after_step(ENCODER, output, 0.5)
        assert torch.equal(framework.patch_center, before)


def test_terms_that_are_off_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("this term is off")

    monkeypatch.setattr(dinov2, "koleo", refuse)
    monkeypatch.setattr(dinov2.PrototypeSums, "patches", refuse)
    framework, (student, teacher, views) = (
        build(replace(SMALL, ibot_weight=0.0, koleo_weight=0.0, shared_head=False)),
        draw(),
    )
    output = framework.loss(student, teacher, views, 0.5)
    assert list(output.terms) == ["dino"]
    assert list(framework.projector) == ["views"]
    assert torch.equal(output.loss.detach(), output.terms["dino"])
    framework.after_step(ENCODER, output, 0.5)


def result(framework: DINOv2, output: FrameworkOutput, student: list[Features]) -> dict[str, Tensor]:
    return {"loss": output.loss, **output.metrics, **output.state, **gradients(framework, student, output.loss)}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("rows", [1, 3])
def test_some_rows_at_a_time_give_the_update_of_all(monkeypatch: pytest.MonkeyPatch, variant: str, rows: int) -> None:
    framework, (student, teacher, views) = build(VARIANTS[variant]), draw()
    whole = result(framework, framework.loss(student, teacher, views, 0.5), student)
    monkeypatch.setattr(prototype_sums, "LOGITS", rows * SMALL.prototypes)
    monkeypatch.setattr(dinov2, "ROWS", rows)
    pieces = result(framework, framework.loss(student, teacher, views, 0.5), student)
    assert pieces.keys() == whole.keys()
    for name, value in whole.items():
        torch.testing.assert_close(pieces[name], value, rtol=1e-11, atol=1e-13, msg=name)


def test_few_numbers_of_rows_for_all_numbers_of_hidden_patches() -> None:
    generator = torch.Generator().manual_seed(0)
    counts = set()
    for _ in range(50):
        masks = [torch.rand(8, 6, 6, generator=generator) < torch.rand(8, 1, 1, generator=generator) for _ in range(2)]
        rows, weights = dinov2._hidden_rows(Views(images=[], targets=[], n_global=2, masks=masks), torch.float64)
        hidden = torch.cat(masks).flatten()
        assert torch.equal(rows[weights > 0], hidden.nonzero().flatten())
        assert weights.sum() == pytest.approx(int(torch.cat(masks).flatten(1).any(1).sum()))
        assert len(rows) - hidden.sum() < hidden.numel() / dinov2.PATCH_COUNTS
        counts.add(len(rows))
    assert len(counts) < 12


def test_the_teachers_temperatures_rise() -> None:
    framework, (student, teacher, views) = build(replace(SMALL, patch_temperature=0.06)), draw()
    start, later = (framework.loss(student, teacher, views, progress).terms for progress in (0.0, 0.3))
    cold = build(replace(SMALL, teacher_temperature=0.04, patch_temperature=0.04))
    assert torch.equal(start["ibot"], cold.loss(student, teacher, views, 1.0).terms["ibot"])
    assert torch.equal(start["dino"], cold.loss(student, teacher, views, 1.0).terms["dino"])
    assert torch.equal(later["ibot"], framework.loss(student, teacher, views, 1.0).terms["ibot"])


@pytest.mark.parametrize("shared_head", [True, False])
def test_prototypes_are_frozen_at_the_start(shared_head: bool) -> None:
    framework, (student, teacher, views) = build(replace(SMALL, shared_head=shared_head)), draw()
    for progress, frozen in ((0.005, True), (0.01, False)):
        framework.zero_grad()
        framework.loss(student, teacher, views, progress).loss.backward()
        framework.before_step(progress)
        for name, parameter in framework.projector.named_parameters():
            assert (parameter.grad is None) == (frozen and "mlp" not in name), name


class Pyramid(nn.Module):
    """An encoder whose patches are wider than its embedding."""

    patch_dim = DIM + 2


def test_a_shared_head_needs_patches_as_wide_as_the_embedding() -> None:
    with pytest.raises(UserError, match=r"shared_head.*8 dimensions.*6"):
        DINOv2(SMALL, Pyramid(), embedding_dim=DIM)
    DINOv2(replace(SMALL, shared_head=False), Pyramid(), embedding_dim=DIM)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"koleo_weight": -0.1}, "koleo_weight"),
        ({"patch_temperature": 0.0}, "patch_temperature must be at least 0.0001"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DINOv2Config(**change)
