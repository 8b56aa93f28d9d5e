"""One step: losses and gradients of a batch, whole or in pieces, averaged over ranks."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from repre.errors import UserError
from repre.models.repre import ReconstructionConfig, RePre
from repre.types import Features, Losses, Views
from repre.utils.amp import autocast
from repre.utils.dist import rank, world_size
from repre.utils.fsdp import is_dtensor
from repre.utils.onednn_linear import fast_linear


@fast_linear()
def forward_backward(
    model: RePre,
    views: Views,
    *,
    progress: float,
    seed: int,
    micro_batch: int = 0,
    precision: torch.dtype = torch.float32,
    scale: float = 1.0,
) -> Losses:
    """Losses of the local batch; leaves ``scale`` times their gradient, averaged over ranks, in the parameters.

    Args:
        seed: of drop path in this step; the step is a function of weights, views, progress and seed, however the batch
            is cut into pieces and ranks.
        micro_batch: images encoded at once; 0 or at least the batch encodes all in one pass.
        precision: of encoder and decoder; bfloat16 and float16 through autocast.
    """
    mixed = partial(autocast, views.images[0].device, precision)
    if 0 < micro_batch < len(views.images[0]):
        losses = _in_pieces(model, views, mixed, progress=progress, seed=seed, micro_batch=micro_batch, scale=scale)
    else:
        set_micro_batch(model, views, 0, seed)
        with mixed():
            losses = model(views, progress=progress)
        (losses.total * scale).backward()
    average_gradients(model)
    return losses


def _in_pieces(
    model: RePre,
    views: Views,
    mixed: Callable[[], AbstractContextManager[Any]],
    *,
    progress: float,
    seed: int,
    micro_batch: int,
    scale: float,
) -> Losses:
    """The gradient cache (Gao et al. 2021, arXiv 2101.06983): the update of the whole batch in the memory of a piece.

    Encode every piece without a graph; heads and contrastive loss over the whole batch give the gradient of every
    embedding; encode every piece again, with the same drop path, and back-propagate that gradient and the piece's
    share of the pixel loss.
    """
    pieces, rebuild = list(split_views(views, micro_batch)), model.rebuilds(progress)
    found: list[list[Features]] = []
    teacher: list[list[Features]] = []
    for number, piece in enumerate(pieces):
        set_micro_batch(model, piece, number * micro_batch, seed, of=views)
        with mixed(), torch.no_grad():
            found.append(model.student_features(piece, rebuild=rebuild, maps=False))
            teacher.append(model.teacher_features(piece))
    leaves = [Features(_join(view).requires_grad_()) for view in zip(*found)]
    contrastive, diagnostics = model.contrastive(leaves, [Features(_join(view)) for view in zip(*teacher)], progress)
    (contrastive * scale).backward()

    count = len(views.images[0])
    pixel: Tensor | None = None
    start = 0
    for piece in pieces:
        size = len(piece.images[0])
        set_micro_batch(model, piece, start, seed, of=views)
        with mixed():
            features = model.student_features(piece, rebuild=rebuild)
            share = model.pixel(features, piece) if rebuild else None
        pull = torch.stack(
            [
                (view.embedding * leaf.embedding.grad[start : start + size]).sum()  # type: ignore[index]
                for view, leaf in zip(features, leaves)
            ]
        ).sum()
        if share is not None:
            share = share * (size / count)
            pull = pull + model.reconstruction.weight * scale * share
            pixel = share.detach() if pixel is None else pixel + share.detach()
        pull.backward()
        start += size
    return model.total(contrastive.detach(), pixel, diagnostics)


def set_micro_batch(model: RePre, piece: Views, start: int, seed: int, *, of: Views | None = None) -> None:
    """Passes over a piece, which starts at `start` of this rank's views, draw what the batch of all ranks draws."""
    local = len((of or piece).images[0])
    first, size = rank() * local + start, len(piece.images[0])
    model.encoder.batch_slice.show(first, first + size, total=world_size() * local, device=piece.images[0].device)
    torch.manual_seed(seed)


def split_views(views: Views, size: int) -> Iterator[Views]:
    """The views of `size` images at a time; of all at once with 0."""
    count = len(views.images[0])
    for start in range(0, count, size or count):
        part = slice(start, start + (size or count))
        yield Views(
            images=[view[part] for view in views.images],
            targets=[target[part] for target in views.targets],
            n_global=views.n_global,
            masks=None if views.masks is None else [mask[part] for mask in views.masks],
        )


def _join(pieces: tuple[Features, ...]) -> Tensor:
    return torch.cat([piece.embedding for piece in pieces])


def validate_micro_batch(encoder: nn.Module, reconstruction: ReconstructionConfig, *, micro_batch: int) -> None:
    """Refuses what depends on how the batch is cut.

    Raises:
        UserError: the encoder normalizes over the batch, and the batch is cut into pieces or over processes; or it has
            dropout, whose draws a piece cannot repeat; or gradients of the whole batch are balanced, and it is cut.
    """
    if not micro_batch and world_size() == 1:
        return
    if micro_batch and reconstruction.balance:
        raise UserError(
            "compute.micro_batch cuts the batch, but reconstruction.balance compares gradients of the whole of it. Use "
            "compute.micro_batch 0, or reconstruction.balance 0 with a reconstruction.weight"
        )
    for name, module in encoder.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            cut = "compute.micro_batch cuts the batch" if micro_batch else "several processes share the batch"
            raise UserError(
                f"{cut}, but {name} of the encoder normalizes over the batch: each part would be normalized by itself. "
                f"Use {'compute.micro_batch 0' if micro_batch else 'one process'}, or an encoder with layer normalization"
            )
        if micro_batch and isinstance(module, nn.Dropout) and module.p:
            raise UserError(
                f"compute.micro_batch cuts the batch, but {name} of the encoder is a dropout of {module.p}, which cannot "
                "be repeated piece by piece. Use compute.micro_batch 0, or encoder.drop_path instead"
            )


def average_gradients(model: nn.Module) -> None:
    """Mean of every gradient over ranks, in one flat all-reduce per dtype. Those of split parameters arrive averaged.

    DistributedDataParallel would overlap this with backward, but cannot see a backward made of pieces; on one node the
    whole exchange costs a few milliseconds, so the one mechanism that serves both is kept.
    """
    if world_size() == 1:
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None and not is_dtensor(p.grad)]
    for dtype in {g.dtype for g in gradients}:
        mine = [g for g in gradients if g.dtype == dtype]
        flat = torch.cat([g.reshape(-1) for g in mine])
        dist.all_reduce(flat)
        flat /= world_size()
        for gradient, averaged in zip(mine, flat.split([g.numel() for g in mine])):
            gradient.copy_(averaged.view_as(gradient))
