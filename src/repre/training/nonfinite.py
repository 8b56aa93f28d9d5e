"""Finds what made a step not finite: which images, which layer, which parameter.

The step is replayed piece by piece with a hook on the output of every layer; the model is left as it was.
"""

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

PIXELS_NOT_FINITE = "the pixels of a view are not finite"
"""Part of the description of a cause that lies in the images."""


@dataclass
class Cause:
    """Why a step is not finite.

    Attributes:
        description: in words.
        images: indices in the local batch of the images at fault, where they can be told.
    """

    description: str
    images: list[int] = field(default_factory=list)


def save_buffers(model: nn.Module) -> Callable[[], None]:
    """Copies the buffers of a model (a forward pass moves running statistics); the returned function restores them."""
    saved = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]

    def restore() -> None:
        with torch.no_grad():
            for buffer, value in saved:
                buffer.copy_(value)

    return restore


def find_cause(
    model: RePre, losses: Losses, views: Views, *, seed: int, micro_batch: int, precision: torch.dtype
) -> Cause:
    """Follows the data through the model to the first value that is not finite.

    A model that is split over processes is not replayed: the processes would have to do it together.
    """
    symptom = _symptom(losses)
    if any(map(is_dtensor, model.parameters())):
        return Cause(symptom)
    bad = torch.zeros(len(views.images[0]), dtype=torch.bool)
    for view in [*views.images, *views.targets]:
        bad |= ~view.isfinite().flatten(1).all(1).cpu()
    if bad.any():
        return Cause(f"{symptom}: {PIXELS_NOT_FINITE}", _indices(bad))
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            return Cause(f"{symptom}: the parameter {name} is not finite")
    reconstruct = losses.pixel is not None
    layer = _replay(model, views, reconstruct=reconstruct, seed=seed, micro_batch=micro_batch, precision=precision)
    if layer is not None:
        return Cause(f"{symptom}: the output of {layer.description} is the first that is not finite", layer.images)
    if not math.isfinite(float(losses.total.detach())):
        return Cause(f"{symptom}, although encoder and decoder are finite: check the framework's heads and its loss")
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            return Cause(f"the gradient of {name} is not finite")
    return Cause("the norm of the gradient is not finite")


def _symptom(losses: Losses) -> str:
    for name, value in (("contrastive loss", losses.contrastive), ("pixel loss", losses.pixel)):
        if value is not None and not math.isfinite(float(value.detach())):
            return f"the {name} is {float(value.detach())}"
    return "the gradient is not finite"


@torch.no_grad()
def _replay(
    model: RePre, views: Views, *, reconstruct: bool, seed: int, micro_batch: int, precision: torch.dtype
) -> Cause | None:
    """The first layer, in the order of computation, whose output is not finite, and the images whose features are not."""
    layers: list[str] = []

    def hook_for(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not layers and isinstance(output, Tensor) and not output.isfinite().all():
                layers.append(name)

        return hook

    hooks = [
        module.register_forward_hook(hook_for(name))
        for name, module in model.named_modules()
        if name.startswith(("encoder.", "decoder.")) and not list(module.children())
    ]
    images: list[int] = []
    start, restore_buffers = 0, save_buffers(model.encoder)
    try:
        for piece in split_views(views, micro_batch):
            set_micro_batch(model, piece, start, seed, of=views)
            mixed = autocast(piece.images[0].device, precision)
            with single_process(), torch.compiler.set_stance("force_eager"), mixed:
                features = model.student_features(piece, reconstruct=reconstruct)
                if reconstruct:
                    model.reconstruction_loss(features, piece)
            bad = torch.zeros(len(piece.images[0]), dtype=torch.bool)
            for tensor in (t for view in features for t in (view.embedding, *view.maps)):
                bad |= ~tensor.isfinite().flatten(1).all(1).cpu()
            images += [start + index for index in _indices(bad)]
            start += len(bad)
    finally:
        for hook in hooks:
            hook.remove()
        restore_buffers()
    return Cause(layers[0], images) if layers else None


def _indices(bad: Tensor) -> list[int]:
    return [int(index) for index in bad.nonzero().flatten()]
