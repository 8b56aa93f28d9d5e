"""The balance of the two objectives: what each asks of the layers that both train.

The gradients of the contrastive loss and of the weighted pixel loss are taken one after the other on a few fixed images,
beside the training: no `.grad`, no running statistic, queue, center or random state is touched.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from repre.models.balance_gradients import balance_gradients
from repre.models.repre import RePre
from repre.types import Views

PLACES = ("first", "middle", "last")
DROWNED, IDLE, CONFLICT = 10.0, 1e-3, -0.5
"""Pixel over contrastive gradient above which the contrastive loss is drowned, below which the branch does nothing; cosine
below which the two fight."""


def balance(model: RePre, views: Views, *, progress: float) -> dict[str, float]:
    """Gradients of both losses at the first, middle and last block that both train; empty without the branch, or after it.

    gradient_contrastive_PLACE, gradient_pixel_PLACE: their norms; the pixel loss's times its weight, or balanced.
    gradient_cosine_PLACE: cosine of the angle between them; below 0 a step for one sets the other back.
    gradient_ratio: pixel over contrastive, the largest of the places; 1 is an even balance there.

    Args:
        model: in evaluation mode, so that nothing is dropped and no statistic moves.
        views: of a few images, at least two.
    """
    settings = model.reconstruction
    if not model.rebuilds(progress):
        return {}
    layers = _shared_layers(model)
    parameters = [p for group in layers for p in group]
    with torch.enable_grad():
        student = model.student_features(views)
        if settings.balance:
            student = balance_gradients(student, settings.balance)
        contrastive = model.contrastive(student, model.teacher_features(views), progress).loss
        pixel = model.pixel(student, views)
        assert pixel is not None, "a model with a decoder has a pixel loss"
        own = torch.autograd.grad(contrastive, parameters, retain_graph=True, allow_unused=True)
        if settings.balance:  # the branch's share shows beside the other's alone
            both = torch.autograd.grad(contrastive + settings.weight * pixel, parameters, allow_unused=True)
            theirs = tuple(a if a is None or b is None else a - b for a, b in zip(both, own))
        else:
            theirs = torch.autograd.grad(settings.weight * pixel, parameters, allow_unused=True)
    parts, start = [], 0
    for group in layers:
        part = slice(start, start := start + len(group))
        if any(g is not None for g in own[part]) and any(g is not None for g in theirs[part]):
            parts.append(part)
    figures: dict[str, float] = {}
    ratios = []
    for place, part in zip(PLACES, (parts[i] for i in (0, (len(parts) - 1) // 2, -1)) if parts else ()):
        a, b = (_flat(found[part], parameters[part]) for found in (own, theirs))
        norm, other = a.norm(), b.norm()
        figures[f"gradient_contrastive_{place}"], figures[f"gradient_pixel_{place}"] = float(norm), float(other)
        figures[f"gradient_cosine_{place}"] = float(a @ b / (norm * other).clamp(min=1e-30))
        ratios.append(other / norm.clamp(min=1e-12))
    if ratios:
        figures["gradient_ratio"] = float(torch.stack(ratios).max())
    return figures


def advice(figures: Mapping[str, float | None]) -> str | None:
    """Words for the figures of `balance`; None where there are none."""
    ratio = figures.get("gradient_ratio")
    cosines = [c for place in PLACES if (c := figures.get(f"gradient_cosine_{place}")) is not None]
    if ratio is None or not cosines:
        return None
    if ratio > DROWNED:
        words = (
            f"the pixel loss asks {ratio:.3g} times as much of the shared blocks as the contrastive loss and drowns it; "
            f"divide reconstruction.weight by about {ratio:.2g}"
        )
    elif ratio < IDLE:
        words = (
            f"the pixel loss asks only {ratio:.2g} of what the contrastive loss asks of the shared blocks: the branch "
            "changes little; try ten times the reconstruction.weight, and more if that ratio stays small"
        )
    else:
        words = f"both losses move the shared blocks (pixel over contrastive {ratio:.2g})"
    worst = min(range(len(cosines)), key=lambda i: cosines[i])
    if cosines[worst] < CONFLICT:
        words += (
            f"; they pull against each other at the {PLACES[worst]} block (cosine {cosines[worst]:.2f}): lower "
            "reconstruction.weight, or rebuild from shallower levels (decoder.levels)"
        )
    return words


def _shared_layers(model: RePre) -> list[list[torch.nn.Parameter]]:
    """The encoder's trainable parameters by depth, without the stem."""
    depth = model.encoder.layers()
    groups: dict[int, list[torch.nn.Parameter]] = {}
    for name, parameter in model.encoder.named_parameters():
        if parameter.requires_grad and depth.get(name, 0) > 0:
            groups.setdefault(depth[name], []).append(parameter)
    return [groups[layer] for layer in sorted(groups)]


def _flat(found: tuple[Tensor | None, ...], parameters: list[torch.nn.Parameter]) -> Tensor:
    whole = [torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters)]
    return torch.cat([g.flatten() for g in whole]).cpu().double()
