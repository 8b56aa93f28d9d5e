"""Who made a step not finite: which images, which layer, which parameter. The step is played again, piece by piece, with
an eye on the output of every layer; nothing is changed by it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from repre.models.repre import RePre
from repre.training.step import set_micro_batch, split_views
from repre.types import Losses, Views
from repre.utils.amp import autocast
from repre.utils.dist import single_process
from repre.utils.fsdp import is_dtensor


@dataclass
class Cause:
    """Words for the cause, and the places in the local batch of the images that are at fault where that can be told."""

    words: str
    places: list[int] = field(default_factory=list)


def save_buffers(model: nn.Module) -> Callable[[], None]:
    """A call that puts the buffers of a model back: a forward pass moves running statistics."""
    kept = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]

    def put_back() -> None:
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)

    return put_back


def find_cause(
    model: RePre, losses: Losses, views: Views, *, seed: int, micro_batch: int, precision: torch.dtype
) -> Cause:
    """Finds the cause of a loss or gradient that is not finite, looking along the way of the data; not in a model that is
    split over processes, which would have to look together."""
    what = _which_loss(losses)
    if any(map(is_dtensor, model.parameters())):
        return Cause(what)
    bad = torch.zeros(len(views.images[0]), dtype=torch.bool)
    for view in [*views.images, *views.targets]:
        bad |= ~view.isfinite().flatten(1).all(1).cpu()
    if bad.any():
        return Cause(f"{what}: the pixels of a view are not finite", _places(bad))
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            return Cause(f"{what}: the parameter {name} is not finite")
    rebuild = losses.pixel is not None
    found = _replay(model, views, rebuild=rebuild, seed=seed, micro_batch=micro_batch, precision=precision)
    if found is not None:
        return Cause(f"{what}: the output of {found.words} is the first that is not finite", found.places)
    if not math.isfinite(float(losses.total.detach())):
        return Cause(f"{what}, though encoder and decoder give finite values: the framework's heads or its loss")
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            return Cause(f"the gradient of {name} is not finite")
    return Cause("the norm of the gradient is not finite")


def _which_loss(losses: Losses) -> str:
    for name, value in (("contrastive loss", losses.contrastive), ("pixel loss", losses.pixel)):
        if value is not None and not math.isfinite(float(value.detach())):
            return f"the {name} is {float(value.detach())}"
    return "the gradient is not finite"


@torch.no_grad()
def _replay(
    model: RePre, views: Views, *, rebuild: bool, seed: int, micro_batch: int, precision: torch.dtype
) -> Cause | None:
    """The first layer, in the order of computing, whose output is not finite, and the images whose features are not."""
    found: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def see(module: nn.Module, given: Any, output: Any) -> None:
            if not found and isinstance(output, Tensor) and not output.isfinite().all():
                found.append(name)

        return see

    hooks = [
        module.register_forward_hook(watch(name))
        for name, module in model.named_modules()
        if name.startswith(("encoder.", "decoder.")) and not list(module.children())
    ]
    places: list[int] = []
    start, put_back = 0, save_buffers(model.encoder)
    try:
        for piece in split_views(views, micro_batch):
            set_micro_batch(model, piece, start, seed, of=views)
            mixed = autocast(piece.images[0].device, precision)
            with single_process(), torch.compiler.set_stance("force_eager"), mixed:
                features = model.student_features(piece, rebuild=rebuild)
                if rebuild:
                    model.pixel(features, piece)
            bad = torch.zeros(len(piece.images[0]), dtype=torch.bool)
            for tensor in (t for view in features for t in (view.embedding, *view.maps)):
                bad |= ~tensor.isfinite().flatten(1).all(1).cpu()
            places += [start + place for place in _places(bad)]
            start += len(bad)
    finally:
        for hook in hooks:
            hook.remove()
        put_back()
    return Cause(found[0], places) if found else None


def _places(bad: Tensor) -> list[int]:
    return [int(place) for place in bad.nonzero().flatten()]
