"""How much of the encoder's gradient belongs to the branch: held at a ratio, whatever the scale of the two losses."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from repre.types import Features
from repre.utils.dist import world_size


def balance_gradients(views: list[Features], ratio: float) -> list[Features]:
    """The same features; backward, the gradient of all maps is given `ratio` times the norm of that of all embeddings.

    Both gradients are those of the whole batch over all ranks, where they enter the encoder: as in the upper bound of
    MGDA (Sener and Koltun 2018, arXiv 1810.04650), which also looks at shared features instead of at shared weights, for
    which each loss would need a backward pass of its own. What the decoder and the heads are asked for stays as it is.

    Args:
        views: features of every view; those without maps have an embedding alone.
        ratio: norm of the maps' gradient over that of the embeddings', above 0.
    """
    levels = [len(view.maps) for view in views]
    flat = [view.embedding for view in views] + [level for view in views for level in view.maps]
    passed = _Balance.apply(ratio, len(views), *flat)
    maps = iter(passed[len(views) :])
    return [Features(embedding, [next(maps) for _ in range(n)]) for embedding, n in zip(passed, levels)]


class _Balance(torch.autograd.Function):
    """One node for all features, so that it has every gradient at hand before the first goes on into the encoder."""

    @staticmethod
    def forward(ctx: Any, ratio: float, embeddings: int, *features: Tensor) -> tuple[Tensor, ...]:
        ctx.ratio, ctx.embeddings = ratio, embeddings
        ctx.set_materialize_grads(False)
        return tuple(feature.view_as(feature) for feature in features)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        own, theirs = gradients[: ctx.embeddings], gradients[ctx.embeddings :]
        squares = torch.stack([_square(part, gradients) for part in (own, theirs)])
        if world_size() > 1:
            dist.all_reduce(squares)
        factor = ctx.ratio * (squares[0] / squares[1]).sqrt()
        factor = torch.where(squares[1] > 0, factor, 0.0)
        scaled = (None if gradient is None else gradient * factor.to(gradient.dtype) for gradient in theirs)
        return None, None, *own, *scaled


def _square(part: tuple[Tensor | None, ...], gradients: tuple[Tensor | None, ...]) -> Tensor:
    """Squared norm of some gradients, at least in float32; 0 where there are none."""
    like = next(gradient for gradient in gradients if gradient is not None)
    kind = torch.promote_types(like.dtype, torch.float32)
    squares = [gradient.to(kind).square().sum() for gradient in part if gradient is not None]
    return torch.stack(squares).sum() if squares else torch.zeros((), dtype=kind, device=like.device)
