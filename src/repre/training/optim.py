"""Parameter groups, AdamW and its schedules."""

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
    """AdamW and its schedules."""

    lr: float = 1.5e-4
    """Peak learning rate for a batch of `base_batch_size` images; scaled in proportion to the batch."""
    base_batch_size: int = 256
    """Batch that `lr` is meant for."""
    min_lr: float = 0.0
    """Learning rate at the end of the cosine (not scaled)."""
    warmup_fraction: float = 40 / 300
    """Share of the run over which the learning rate rises from 0."""
    weight_decay: float = 0.1
    """Weight decay of matrices and kernels; vectors (biases, norms, positions) have none."""
    weight_decay_end: float | None = None
    """Weight decay at the end of a cosine; None keeps it constant."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of AdamW's two running averages."""
    clip_grad_norm: float | None = None
    """Largest norm of the whole gradient; None does not clip."""

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

    def lr_at(self, progress: float, *, batch: int) -> float:
        """Learning rate at a progress in [0, 1] for a global batch."""
        return warmup_cosine(
            progress, warmup=self.warmup_fraction, peak=self.lr * batch / self.base_batch_size, end=self.min_lr
        )

    def weight_decay_at(self, progress: float) -> float:
        """Weight decay of the decayed group at a progress in [0, 1]."""
        end = self.weight_decay if self.weight_decay_end is None else self.weight_decay_end
        return cosine(progress, self.weight_decay, end)


def parameter_groups(
    model: nn.Module, *, keep: Iterable[str] = (), layers: Mapping[str, int] | None = None, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """The trainable parameters in groups: decayed matrices and kernels; vectors and tokens without decay.

    Args:
        model: the model to train.
        keep: ends of names that are never decayed although they are matrices (position embeddings, tokens).
        layers: depth of parameters by name; with it there are two groups for every depth, and the learning rate of
            depth d out of n is scaled by ``layer_decay ** (n - d)``; a parameter without a depth (a head) is scaled by 1.
    """
    keep = tuple(keep)
    layers = layers or {}
    top = max(layers.values(), default=0) + 1
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {} if layers else {(top, True): [], (top, False): []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            vector = parameter.ndim <= 1 or (bool(keep) and name.endswith(keep))
            groups.setdefault((layers.get(name, top), not vector), []).append(parameter)
    return [
        {"params": parameters, "decay": decay, "scale": layer_decay ** (top - depth)}
        for (depth, decay), parameters in groups.items()
    ]


def build_optimizer(
    config: OptimConfig,
    model: nn.Module,
    *,
    keep: Iterable[str] = (),
    layers: Mapping[str, int] | None = None,
    layer_decay: float = 1.0,
) -> torch.optim.Optimizer:
    """The optimizer over `parameter_groups`; learning rate and decay are set before every step by `set_schedule`."""
    groups = parameter_groups(model, keep=keep, layers=layers, layer_decay=layer_decay)
    parameters = [p for g in groups for p in g["params"]]
    if any(map(is_dtensor, parameters)):  # split and whole parameters do not go through one kernel
        return torch.optim.AdamW(groups, lr=0.0, betas=config.betas, foreach=False, fused=False)
    fused = all(p.device.type in ("cuda", "cpu") for p in parameters)
    return torch.optim.AdamW(groups, lr=0.0, betas=config.betas, fused=fused)


def set_schedule(optimizer: torch.optim.Optimizer, config: OptimConfig, *, progress: float, batch: int) -> float:
    """Writes learning rate and weight decay of this moment into the groups; gives the learning rate."""
    lr, decay = config.lr_at(progress, batch=batch), config.weight_decay_at(progress)
    for group in optimizer.param_groups:
        group["lr"] = lr * group["scale"]
        group["weight_decay"] = decay if group["decay"] else 0.0
    return lr
