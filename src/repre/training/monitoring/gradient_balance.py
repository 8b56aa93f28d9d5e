"""The balance of the two objectives: how strongly each loss pulls on the blocks that both train.

Both gradients are computed on a few fixed images, beside the training: `.grad`, running statistics, queue, center and random
states stay as they are.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from repre.models.balance_gradients import balance_gradients
from repre.models.repre import RePre
from repre.training.monitoring.limits import BLOCKS, MAX_GRADIENT_RATIO, MIN_GRADIENT_COSINE, MIN_GRADIENT_RATIO
from repre.types import Views


def gradient_balance(model: RePre, views: Views, *, progress: float) -> dict[str, float]:
    """Compares the gradients of both losses at the first, middle and last block that both train.

    gradient_contrastive_BLOCK, gradient_pixel_BLOCK: norms of the two gradients; the pixel loss's includes its weight or, if
        `reconstruction.balance` is set, the balancing.
    gradient_cosine_BLOCK: cosine of the angle between them; below 0, a step for one loss works against the other.
    gradient_ratio: pixel norm over contrastive norm, the largest of the three blocks; at 1 the losses are in balance there.

    A framework without a loss of its own (`needs.branch`) has the pixel norms only, at blocks that the pixel loss trains.

    Args:
        model: in evaluation mode, so that nothing is dropped and no statistic moves.
        views: of at least two images.
        progress: share of the run that is done, in [0, 1].

    Returns:
        Metrics by name; empty if the branch does not take part (absent, or ended before `progress`).
    """
    if not model.reconstructs(progress):
        return {}
    blocks = _shared_blocks(model)
    parameters = [parameter for block in blocks for parameter in block]
    contrastive, pixel = _gradients(model, views, parameters, progress=progress)
    objectives = (pixel,) if model.framework.needs.branch else (contrastive, pixel)
    trained_by_all: list[slice] = []
    start = 0
    for block in blocks:
        part = slice(start, start := start + len(block))
        if all(any(g is not None for g in gradients[part]) for gradients in objectives):
            trained_by_all.append(part)
    if not trained_by_all:
        return {}
    metrics: dict[str, float] = {}
    ratios = []
    for name, number in zip(BLOCKS, (0, (len(trained_by_all) - 1) // 2, -1)):
        part = trained_by_all[number]
        contrastive_vector, pixel_vector = (_flatten(g[part], parameters[part]) for g in (contrastive, pixel))
        contrastive_norm, pixel_norm = contrastive_vector.norm(), pixel_vector.norm()
        metrics[f"gradient_pixel_{name}"] = float(pixel_norm)
        if model.framework.needs.branch:
            continue
        cosine = contrastive_vector @ pixel_vector / (contrastive_norm * pixel_norm).clamp(min=1e-30)
        metrics[f"gradient_contrastive_{name}"] = float(contrastive_norm)
        metrics[f"gradient_cosine_{name}"] = float(cosine)
        ratios.append(pixel_norm / contrastive_norm.clamp(min=1e-12))
    if ratios:
        metrics["gradient_ratio"] = float(torch.stack(ratios).max())
    return metrics


def describe_balance(metrics: Mapping[str, float | None]) -> str | None:
    """One sentence on the metrics of `gradient_balance`, with advice; None if there are none."""
    ratio = metrics.get("gradient_ratio")
    cosines = {name: cosine for name in BLOCKS if (cosine := metrics.get(f"gradient_cosine_{name}")) is not None}
    if ratio is None or not cosines:
        return None
    if ratio > MAX_GRADIENT_RATIO:
        description = (
            f"the pixel loss drowns the contrastive loss: its gradient is {ratio:.3g} times as large in the shared blocks; "
            f"divide reconstruction.weight by about {ratio:.2g}"
        )
    elif ratio < MIN_GRADIENT_RATIO:
        description = (
            f"the reconstruction branch changes little: its gradient is only {ratio:.2g} times the contrastive one in the "
            "shared blocks; multiply reconstruction.weight by ten, and again if the ratio stays small"
        )
    else:
        description = f"both losses train the shared blocks (pixel over contrastive gradient: {ratio:.2g})"
    opposed = min(cosines, key=lambda name: cosines[name])
    if cosines[opposed] < MIN_GRADIENT_COSINE:
        description += (
            f"; they pull against each other at the {opposed} block (cosine {cosines[opposed]:.2f}): lower "
            "reconstruction.weight, or reconstruct from shallower levels (decoder.levels)"
        )
    return description


Gradients = tuple[Tensor | None, ...]


def _gradients(
    model: RePre, views: Views, parameters: Sequence[Tensor], *, progress: float
) -> tuple[Gradients, Gradients]:
    """Gradients of the contrastive loss and of the weighted pixel loss; None for a parameter that a loss does not reach."""
    weight, balanced = model.reconstruction.weight, model.reconstruction.balance
    with torch.enable_grad():
        student = model.student_features(views)
        if balanced:
            student = balance_gradients(student, balanced)
        loss = model.contrastive_loss(student, model.teacher_features(views), views, progress).loss
        pixel_loss = model.reconstruction_loss(student, views)
        assert pixel_loss is not None, "a model that rebuilds has a pixel loss"
        contrastive: Gradients = (None,) * len(parameters)
        if loss.requires_grad:
            contrastive = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        if not balanced:
            return contrastive, torch.autograd.grad(weight * pixel_loss, parameters, allow_unused=True)
        # balancing scales the pixel gradient by the contrastive one, so it needs both losses in one backward pass
        total = torch.autograd.grad(loss + weight * pixel_loss, parameters, allow_unused=True)
    pixel = tuple(t if t is None or c is None else t - c for t, c in zip(total, contrastive))
    return contrastive, pixel


def _shared_blocks(model: RePre) -> list[list[torch.nn.Parameter]]:
    """The encoder's trainable parameters by depth, without the stem (depth 0)."""
    depths = model.encoder.layer_ids()
    blocks: dict[int, list[torch.nn.Parameter]] = {}
    for name, parameter in model.encoder.named_parameters():
        if parameter.requires_grad and (depth := depths.get(name, 0)) > 0:
            blocks.setdefault(depth, []).append(parameter)
    return [blocks[depth] for depth in sorted(blocks)]


def _flatten(gradients: Gradients, parameters: Sequence[Tensor]) -> Tensor:
    """One float64 vector on the CPU; zeros for parameters without gradient."""
    filled = [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, parameters)]
    return torch.cat([gradient.flatten() for gradient in filled]).cpu().double()
