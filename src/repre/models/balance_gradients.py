"""Keeps the decoder's gradient in the encoder at a fixed ratio to the contrastive one, whatever the scale of the losses."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from repre.types import Features
from repre.utils.dist import world_size


def balance_gradients(views: list[Features], ratio: float) -> list[Features]:
    """Returns the same features; in the backward pass, scales the gradient of all maps.

    After scaling, its norm is `ratio` times the norm of the gradient of all embeddings and patch tokens. Both norms are
    those of the whole batch over all ranks. Like the upper bound of MGDA (Sener and Koltun 2018, arXiv 1810.04650,
    section 3.3), this compares gradients of shared features, not of shared weights, which would need a backward pass for
    each loss. The gradients inside the decoder and the heads do not change.

    Args:
        views: features of every view; some may have no maps.
        ratio: wanted ratio of the norms, above 0.
    """
    contrastive = [x for view in views for x in (view.embedding, view.patches) if x is not None]
    outputs = _Balance.apply(ratio, len(contrastive), *contrastive, *(level for view in views for level in view.maps))
    of_loss, maps = iter(outputs[: len(contrastive)]), iter(outputs[len(contrastive) :])
    return [
        Features(next(of_loss), None if view.patches is None else next(of_loss), [next(maps) for _ in view.maps])
        for view in views
    ]


class _Balance(torch.autograd.Function):
    """One node for all features, because it needs every gradient before it passes the first one on to the encoder."""

    @staticmethod
    def forward(ctx: Any, ratio: float, n_contrastive: int, *features: Tensor) -> tuple[Tensor, ...]:
        ctx.ratio, ctx.n_contrastive = ratio, n_contrastive
        ctx.set_materialize_grads(False)
        return tuple(feature.view_as(feature) for feature in features)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        of_loss, of_maps = gradients[: ctx.n_contrastive], gradients[ctx.n_contrastive :]
        squares = torch.stack([_squared_norm(part, gradients) for part in (of_loss, of_maps)])
        if world_size() > 1:
            dist.all_reduce(squares)
        factor = ctx.ratio * (squares[0] / squares[1]).sqrt()
        factor = torch.where(squares[1] > 0, factor, 0.0)
        scaled = (None if gradient is None else gradient * factor.to(gradient.dtype) for gradient in of_maps)
        return None, None, *of_loss, *scaled


def _squared_norm(part: tuple[Tensor | None, ...], gradients: tuple[Tensor | None, ...]) -> Tensor:
    """Squared norm of `part` in float32 or more, 0 if it is empty; `gradients` tell dtype and device."""
    like = next(gradient for gradient in gradients if gradient is not None)
    dtype = torch.promote_types(like.dtype, torch.float32)
    squares = [gradient.to(dtype).square().sum() for gradient in part if gradient is not None]
    return torch.stack(squares).sum() if squares else torch.zeros((), dtype=dtype, device=like.device)
