"""One training step: the only place where its order is written.

schedule -> forward and backward, whole or in pieces, averaged over ranks -> unscale -> status (loss, norm, flags: one
reduction, one wait) -> clip -> `before_step` -> optimizer -> `after_step`
"""

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from repre.errors import UserError
from repre.models.repre import ReconstructionConfig, RePre
from repre.training.clip_gradients import clip_gradients
from repre.training.optim import OptimConfig, set_schedule
from repre.types import Features, Losses, Views
from repre.utils.amp import autocast, tf32
from repre.utils.dist import rank, world_size
from repre.utils.fsdp import join_norms, partial_norms
from repre.utils.gradient_exchange import exchange_gradients
from repre.utils.onednn_linear import fast_linear
from repre.utils.pieces import batch_dependence, batch_norm, no_repetition
from repre.utils.step_compile import compiled_step


@dataclass(frozen=True)
class StepResult:
    """The outcome of one step; the same on all ranks, except `losses`.

    Attributes:
        losses: of the local batch, on the device.
        loss: total loss, averaged over ranks.
        grad_norm: norm of the whole gradient before clipping.
        lr: learning rate of the step.
        flags: for each flag that was passed in, whether any rank raised it.
    """

    losses: Losses
    loss: float
    grad_norm: float
    lr: float
    flags: tuple[bool, ...]

    @property
    def finite(self) -> bool:
        """Whether loss and gradient are finite; otherwise the weights stayed as they were."""
        return math.isfinite(self.loss + self.grad_norm)


def train_step(
    model: RePre,
    optimizer: torch.optim.Optimizer,
    views: Views,
    *,
    optim: OptimConfig,
    batch_size: int,
    progress: float,
    seed: int,
    micro_batch: int = 0,
    precision: torch.dtype = torch.float32,
    scaler: torch.amp.GradScaler | None = None,
    flags: Sequence[bool] = (),
    overlap: Callable[[], None] | None = None,
) -> StepResult:
    """Updates student and teacher by one batch of views; a collective call.

    If loss or gradient are not finite, the weights stay as they are and the gradients stay in `.grad` for a diagnosis.
    If memory runs out in the forward or backward passes, torch's error leaves everything but the gradients as it was, so the
    same step may be repeated in smaller pieces.

    Args:
        views: the local batch.
        batch_size: images of the global batch, for the learning rate.
        progress: share of the run that is done, in [0, 1].
        seed: of drop path in this step. The step is a function of weights, views, progress and seed, however the batch is
            cut into pieces and ranks.
        micro_batch: images encoded at once; 0 encodes the whole local batch.
        precision: of encoder and decoder; bfloat16 and float16 run under autocast.
        scaler: scales the loss for float16.
        flags: what this rank wants all ranks to know; they travel with loss and norm.
        overlap: called while the device computes, before the host waits for it, and before the weights change.

    Raises:
        FinalMemoryError: memory ran out after these passes; this step cannot be repeated.
    """
    scaler = scaler or torch.amp.GradScaler(views.images[0].device.type, enabled=False)
    lr = set_schedule(optimizer, optim, progress=progress, batch_size=batch_size)
    optimizer.zero_grad(set_to_none=True)
    losses = forward_backward(
        model, views, progress=progress, seed=seed, micro_batch=micro_batch, precision=precision, scale=scaler.scale
    )
    with no_repetition():
        scaler.unscale_(optimizer)
        grad_norm, status = _status(_gradients(optimizer), losses, flags)
        read_status = _start_reading(status)
        if overlap is not None:
            overlap()
        update_early = _is_fused(optimizer) and not scaler.is_enabled()
        if update_early:  # queued before the host waits, so that the device does not wait for the host afterwards
            _update_weights(model, optimizer, scaler, grad_norm, status, optim=optim, progress=progress)
        loss, norm, *raised = read_status()  # the only wait of the host
        result = StepResult(losses, loss, norm, lr, tuple(flag > 0 for flag in raised))
        if result.finite:
            if not update_early:
                _update_weights(model, optimizer, scaler, grad_norm, status, optim=optim, progress=progress)
            model.framework.after_step(model.encoder, losses.output, progress)
            optimizer.zero_grad(set_to_none=True)
        scaler.update()
    return result


def _start_reading(status: Tensor) -> Callable[[], list[float]]:
    """Starts the copy of a tensor to the host; the returned function waits for it alone, not for what is queued later."""
    if not status.is_cuda:
        return status.tolist
    on_host = torch.empty(status.shape, dtype=status.dtype, pin_memory=True).copy_(status, non_blocking=True)
    copied = torch.cuda.current_stream(status.device).record_event()

    def read() -> list[float]:
        copied.synchronize()
        values: list[float] = on_host.tolist()
        return values

    return read


def _is_fused(optimizer: torch.optim.Optimizer) -> bool:
    return all(group["fused"] for group in optimizer.param_groups)


def _gradients(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The gradients of all trained parameters that have one."""
    return [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def _update_weights(
    model: RePre,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    grad_norm: Tensor,
    status: Tensor,
    *,
    optim: OptimConfig,
    progress: float,
) -> None:
    """Clips the gradient and updates the weights. If loss or norm are not finite, neither gradients nor weights change; a
    fused optimizer decides that on the device, by the protocol that torch's GradScaler uses."""
    not_finite = ~status[:2].isfinite().all()
    clip_gradients(
        _gradients(optimizer), grad_norm, optim.clip_grad_norm, unless=not_finite, each=optim.clip_per_parameter
    )
    model.framework.before_step(progress)
    if scaler.is_enabled():
        scaler.step(optimizer)
        return
    if _is_fused(optimizer):
        optimizer.found_inf = not_finite.float()  # type: ignore[attr-defined]
    try:
        optimizer.step()
    finally:
        optimizer.found_inf = None  # type: ignore[attr-defined]


def _status(gradients: list[Tensor], losses: Losses, flags: Sequence[bool]) -> tuple[Tensor, Tensor]:
    """The norm of the gradient, and everything that the host reads in one tensor: loss, norm, flags.

    One all-reduce sums the ranks' losses, flags and, for parameters that are split over the ranks, squared norms.
    """
    norm, squares = partial_norms(gradients)
    loss = losses.total.detach()
    values = [
        loss,
        torch.zeros_like(loss) if squares is None else squares.to(loss.device),
        *(torch.full_like(loss, float(flag)) for flag in flags),
    ]
    status = torch.stack([value.to(loss.dtype) for value in values])
    if world_size() > 1:
        dist.all_reduce(status)
    loss = status[0] / world_size()
    if squares is not None:
        norm = join_norms(norm, status[1])
    return norm, torch.cat([torch.stack([loss, norm.to(loss.device, loss.dtype)]), status[2:]])


# ------------------------------------------------------------------------------------------- forward and backward


def _unscaled(loss: Tensor) -> Tensor:
    return loss


@fast_linear()
@compiled_step()
def forward_backward(
    model: RePre,
    views: Views,
    *,
    progress: float,
    seed: int,
    micro_batch: int = 0,
    precision: torch.dtype = torch.float32,
    scale: Callable[[Tensor], Tensor] = _unscaled,
) -> Losses:
    """Computes the losses of the local batch and leaves their scaled gradient, averaged over ranks, in the parameters.

    Args:
        scale: multiplies a loss, or a part of one, by the gradient scaler's factor.

    The other arguments are those of `train_step`.
    """
    mixed = partial(autocast, views.images[0].device, precision)
    with tf32(precision), exchange_gradients(model, first=model.framework):
        if 0 < micro_batch < len(views.images[0]):
            return _in_pieces(model, views, mixed, progress=progress, seed=seed, micro_batch=micro_batch, scale=scale)
        set_micro_batch(model, views, 0, seed)
        with mixed():
            losses = model(views, progress=progress)
        scale(losses.total).backward()
        return losses


def _in_pieces(
    model: RePre,
    views: Views,
    mixed: Callable[[], AbstractContextManager[Any]],
    *,
    progress: float,
    seed: int,
    micro_batch: int,
    scale: Callable[[Tensor], Tensor],
) -> Losses:
    """The gradient cache (Gao et al. 2021, arXiv 2101.06983): the update of the whole batch in the memory of a piece.

    1. Encode every piece without a graph.
    2. Compute heads and contrastive loss over the whole batch; this gives the gradient of every embedding and patch token.
    3. Encode every piece again, with the same drop path, and back-propagate the gradient of its embeddings and patch tokens
       together with its share of the pixel loss.
    """
    pieces, reconstruct = list(split_views(views, micro_batch)), model.reconstructs(progress)
    student: list[list[Features]] = []
    teacher: list[list[Features]] = []
    for number, piece in enumerate(pieces):
        set_micro_batch(model, piece, number * micro_batch, seed, of=views)
        with mixed(), torch.no_grad():
            student.append(model.student_features(piece, reconstruct=reconstruct, maps=False))
            teacher.append(model.teacher_features(piece))
    leaves = [_join(view, requires_grad=True) for view in zip(*student)]
    output = model.contrastive_loss(leaves, [_join(view) for view in zip(*teacher)], views, progress)
    if output.loss.requires_grad:
        scale(output.loss).backward()

    count = len(views.images[0])
    pixel: Tensor | None = None
    start = 0
    for piece in pieces:
        size = len(piece.images[0])
        set_micro_batch(model, piece, start, seed, of=views)
        with mixed():
            features = model.student_features(piece, reconstruct=reconstruct)
            piece_pixel = model.reconstruction_loss(features, piece) if reconstruct else None
        surrogates = [  # the gradient with respect to what the loss took is the cached one, already scaled
            (own * cached.grad[start : start + size]).sum()
            for view, leaf in zip(features, leaves)
            for own, cached in zip(_of_loss(view), _of_loss(leaf))
            if cached.grad is not None
        ]
        if piece_pixel is not None:
            piece_pixel = piece_pixel * (size / count)
            surrogates.append(scale(model.reconstruction.weight * piece_pixel))
            pixel = piece_pixel.detach() if pixel is None else pixel + piece_pixel.detach()
        torch.stack(surrogates).sum().backward()
        start += size
    return model.total_loss(replace(output, loss=output.loss.detach()), pixel)


def set_micro_batch(model: RePre, piece: Views, start: int, seed: int, *, of: Views | None = None) -> None:
    """Makes the next passes draw for this piece what the global batch draws for it.

    Args:
        piece: the views that the passes will encode.
        start: index of the piece's first image in the local batch.
        of: the local batch; None if the piece is all of it.
    """
    local = len((of or piece).images[0])
    first, size = rank() * local + start, len(piece.images[0])
    model.encoder.batch_slice.select(first, first + size, total=world_size() * local, device=piece.images[0].device)
    torch.manual_seed(seed)


def split_views(views: Views, size: int) -> Iterator[Views]:
    """The views of `size` images at a time; 0 yields all images at once."""
    count = len(views.images[0])
    for start in range(0, count, size or count):
        rows = slice(start, start + (size or count))
        yield views.map(operator.itemgetter(rows))


def _of_loss(view: Features) -> list[Tensor]:
    """What the contrastive loss takes of a view."""
    return [x for x in (view.embedding, view.patches) if x is not None]


def _join(pieces: tuple[Features, ...], *, requires_grad: bool = False) -> Features:
    """What the contrastive loss takes of a view, for all pieces of the batch."""
    embedding = torch.cat([piece.embedding for piece in pieces]).requires_grad_(requires_grad)
    patches = [piece.patches for piece in pieces if piece.patches is not None]
    return Features(embedding, torch.cat(patches).requires_grad_(requires_grad) if patches else None)


def validate_micro_batch(encoder: nn.Module, reconstruction: ReconstructionConfig, *, micro_batch: int) -> None:
    """Refuses settings whose result depends on how the batch is cut.

    Raises:
        UserError: the encoder normalizes over the batch, and the batch is cut into pieces or over processes; or it has
            dropout, whose random numbers a piece cannot repeat; or gradients of the whole batch are balanced.
    """
    reason = whole_batch_reason(encoder, reconstruction)
    if micro_batch and reason is not None:
        raise UserError(f"compute.micro_batch cuts the batch, but {reason}. Use compute.micro_batch 0")
    norm = batch_norm(encoder)
    if world_size() > 1 and norm is not None:
        raise UserError(
            f"several processes share the batch, but {norm} of the encoder normalizes over the batch, so each part "
            "would be normalized separately. Use one process, or an encoder with layer normalization"
        )


def whole_batch_reason(encoder: nn.Module, reconstruction: ReconstructionConfig) -> str | None:
    """Why the batch cannot be encoded in pieces, in words; None if it can."""
    if reconstruction.balance:
        return "reconstruction.balance needs gradients of the whole batch, a fixed reconstruction.weight does not"
    return batch_dependence(encoder)
