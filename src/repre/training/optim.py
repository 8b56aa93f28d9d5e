"""The optimizer: AdamW, its parameter groups, and the schedules of learning rate and weight decay."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from repre.errors import UserError
from repre.utils.config_checks import check_fields
from repre.utils.fsdp import is_dtensor
from repre.utils.schedule import cosine, warmup_cosine


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Settings of AdamW and its schedules."""

    lr: float = 1.5e-4
    """Peak learning rate for a batch of `base_batch_size` images; scaled linearly with the batch size."""
    base_batch_size: int = 256
    """Batch size that `lr` applies to."""
    min_lr: float = 0.0
    """Learning rate at the end of the cosine schedule; not scaled."""
    warmup_fraction: float = 40 / 300
    """Share of the run over which the learning rate rises linearly from 0."""
    weight_decay: float = 0.1
    """Weight decay of matrices and kernels; biases, norms, position embeddings and tokens have none."""
    weight_decay_end: float | None = None
    """Weight decay at the end of a cosine schedule; None keeps it constant."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates for the averages of the gradient and of its square."""
    clip_grad_norm: float | None = None
    """Maximum norm of the whole gradient; None does not clip."""

    def __post_init__(self) -> None:
        check_fields(self, "optim")
        for name in ("lr", "weight_decay", "min_lr"):
            if getattr(self, name) < 0:
                raise UserError(f"optim.{name} must not be negative, not {getattr(self, name)}")
        if not 0 <= self.warmup_fraction <= 1:
            raise UserError(
                f"optim.warmup_fraction is a share of the run and must lie in [0, 1], not {self.warmup_fraction}"
            )
        if self.clip_grad_norm is not None and self.clip_grad_norm <= 0:
            raise UserError(
                f"optim.clip_grad_norm must be above 0 (or None for no clipping), not {self.clip_grad_norm}"
            )
        if self.base_batch_size < 1:
            raise UserError(f"optim.base_batch_size must be at least 1, not {self.base_batch_size}")

    def lr_at(self, progress: float, *, batch_size: int) -> float:
        """Learning rate for a global batch when a share `progress` of the run, in [0, 1], is done."""
        peak = self.lr * batch_size / self.base_batch_size
        return warmup_cosine(progress, warmup=self.warmup_fraction, peak=peak, end=self.min_lr)

    def weight_decay_at(self, progress: float) -> float:
        """Weight decay of the decayed groups when a share `progress` of the run, in [0, 1], is done."""
        end = self.weight_decay if self.weight_decay_end is None else self.weight_decay_end
        return cosine(progress, self.weight_decay, end)


def parameter_groups(
    model: nn.Module,
    *,
    no_weight_decay: Iterable[str] = (),
    layers: Mapping[str, int] | None = None,
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """Groups the trainable parameters for the optimizer.

    Args:
        model: the model to train.
        no_weight_decay: endings of names of matrices without weight decay (position embeddings, tokens). Parameters with
            at most one dimension have none either.
        layers: index of the layer of parameters by name, 0 for the first. With it there are up to two groups per layer, and
            the learning rate of layer l is scaled by ``layer_decay ** (n - l)``, where n is the number of layers.
            Parameters that are not named (a head) count as layer n.
        layer_decay: the factor by which the learning rate falls from one layer to the one below it.

    Returns:
        Groups with the keys params, use_weight_decay and lr_scale, which `set_schedule` reads.
    """
    endings = tuple(no_weight_decay)
    layers = layers or {}
    top = max(layers.values(), default=0) + 1
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {} if layers else {(top, True): [], (top, False): []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            use_weight_decay = parameter.ndim > 1 and not name.endswith(endings)
            groups.setdefault((layers.get(name, top), use_weight_decay), []).append(parameter)
    return [
        {"params": parameters, "use_weight_decay": use_weight_decay, "lr_scale": layer_decay ** (top - layer)}
        for (layer, use_weight_decay), parameters in groups.items()
    ]


def build_optimizer(
    config: OptimConfig,
    model: nn.Module,
    *,
    no_weight_decay: Iterable[str] = (),
    layers: Mapping[str, int] | None = None,
    layer_decay: float = 1.0,
) -> torch.optim.Optimizer:
    """Builds AdamW over `parameter_groups`, which explains the arguments.

    The learning rate is 0 until `set_schedule` sets it; call that before every step.
    """
    groups = parameter_groups(model, no_weight_decay=no_weight_decay, layers=layers, layer_decay=layer_decay)
    parameters = [p for group in groups for p in group["params"]]
    if any(map(is_dtensor, parameters)):  # no fused or foreach kernel takes sharded and whole parameters together
        return torch.optim.AdamW(groups, lr=0.0, betas=config.betas, foreach=False, fused=False)
    fused = all(p.device.type in ("cuda", "cpu") for p in parameters)
    return torch.optim.AdamW(groups, lr=0.0, betas=config.betas, fused=fused)


def set_schedule(optimizer: torch.optim.Optimizer, config: OptimConfig, *, progress: float, batch_size: int) -> float:
    """Sets learning rate and weight decay of every group; returns the learning rate before `lr_scale`.

    Args:
        progress: share of the run that is done, in [0, 1].
        batch_size: images of the global batch.
    """
    lr, weight_decay = config.lr_at(progress, batch_size=batch_size), config.weight_decay_at(progress)
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
        group["weight_decay"] = weight_decay if group["use_weight_decay"] else 0.0
    return lr
