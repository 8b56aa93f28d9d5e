"""The optimizer: AdamW, its parameter groups, and the schedules of learning rate and weight decay."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from repre.errors import UserError
from repre.utils.config_checks import check_fields
from repre.utils.fsdp import is_dtensor
from repre.utils.schedule import Progress, cosine, linear, since_start, warmup_cosine, warmup_stable_decay

FINAL_NORMS = ("model.norm.", "model.fc_norm.", "model.head.norm.")
"""Where timm's models keep the normalization after the last block."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Settings of AdamW and its schedules."""

    lr: float = 1.5e-4
    """Peak learning rate for a batch of `base_batch_size` images; scaled linearly with the batch size."""
    base_batch_size: int = 256
    """Batch size that `lr` applies to."""
    schedule: Literal["cosine", "wsd"] = "cosine"
    """After the warm-up: a cosine over the whole run, or `wsd` (warm-up, stable, decay): constant until the decay, so
    that the run can be extended without loss (docs/train_on.md). The other schedules (the teacher's momentum, the
    weight decay, `reconstruction.end_fraction`) then also stay constant until the decay and run during it."""
    decay_fraction: float = 0.2
    """Share of the run in which a `wsd` schedule decays, as 1 minus the square root of the decay's progress."""
    base_epochs: int | None = None
    """Epochs that `warmup_fraction` and other settings of the start of a `wsd` run refer to; None: `epochs`. An
    extended run keeps the value that it began with."""
    min_lr: float = 0.0
    """Learning rate at the end of the schedule; not scaled."""
    warmup_fraction: float = 40 / 300
    """Share of the run over which the learning rate rises linearly."""
    warmup_lr: float = 0.0
    """Learning rate that the warm-up starts from; not scaled."""
    layer_decay: float = 1.0
    """Factor of the encoder's learning rate from one layer to the layer below. The last block has this factor; the final
    norm, heads and decoder have 1."""
    patch_embed_lr_scale: float = 1.0
    """Further factor of the patch embedding's learning rate."""
    weight_decay: float = 0.1
    """Weight decay of matrices and kernels. The framework decides about the rest; by default biases, norms, position
    embeddings and tokens have none."""
    weight_decay_end: float | None = None
    """Weight decay at the end of a cosine schedule; None keeps it constant."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates for the averages of the gradient and of its square."""
    clip_grad_norm: float | None = None
    """Maximum norm of the whole gradient; None does not clip."""
    clip_per_parameter: bool = False
    """Apply `clip_grad_norm` to the gradient of each parameter separately, as DINO's authors do."""

    def __post_init__(self) -> None:
        check_fields(self, "optim")
        if max(self.betas) >= 1:
            raise UserError(f"optim.betas must lie in [0, 1), not {self.betas}; AdamW's defaults are 0.9 0.999")
        if self.base_epochs is not None and (self.schedule != "wsd" or self.base_epochs < 1):
            raise UserError(
                f"optim.base_epochs must be at least 1 and needs optim.schedule wsd, not {self.base_epochs} and "
                f"{self.schedule}; leave it out, or set --optim.base-epochs None"
            )
        if self.schedule == "wsd" and self.base_epochs is None and self.warmup_fraction + self.decay_fraction > 1:
            raise UserError(
                f"optim.warmup_fraction {self.warmup_fraction:g} and optim.decay_fraction {self.decay_fraction:g} are more "
                "than the whole run; make one of them smaller"
            )
        if not 0 < self.layer_decay <= 1:
            raise UserError(f"optim.layer_decay must lie in (0, 1], not {self.layer_decay}")
        if self.clip_grad_norm is not None and self.clip_grad_norm <= 0:
            raise UserError(
                f"optim.clip_grad_norm must be above 0 (or None for no clipping), not {self.clip_grad_norm}"
            )
        if self.base_batch_size < 1:
            raise UserError(f"optim.base_batch_size must be at least 1, not {self.base_batch_size}")

    def decay_start(self, total: int) -> int:
        """The steps of a run of `total` steps that are done when a `wsd` schedule begins to decay."""
        return total - round(self.decay_fraction * total)

    def progress_at(self, step: int, *, total: int, base: int) -> float:
        """The progress of a run, which all schedules take.

        Args:
            step: steps that are done.
            total: steps of the run.
            base: steps of `base_epochs`.
        """
        if self.schedule == "cosine":
            return step / total
        start = self.decay_start(total)
        return Progress((step - start) / (total - start) if step > start else 0.0, since_start=step / base)

    def lr_at(self, progress: float, *, batch_size: int, start: float = 0.0) -> float:
        """Learning rate for a global batch at a point of the run that `progress_at` gave.

        Args:
            start: share of the run in which the parameters do not learn. Their warm-up begins after it, and ends on the
                curve of those that learn from the first step on.
        """
        begun = since_start(progress)
        if begun < start:
            return 0.0
        peak = self.lr * batch_size / self.base_batch_size
        curve = warmup_cosine if self.schedule == "cosine" else warmup_stable_decay
        rate = curve(progress, warmup=self.warmup_fraction, peak=peak, end=self.min_lr, start=self.warmup_lr)
        if start > 0 and begun - start < self.warmup_fraction:
            return min(rate, linear((begun - start) / self.warmup_fraction, self.warmup_lr, peak))
        return rate

    def weight_decay_at(self, progress: float) -> float:
        """Weight decay of the decayed groups at a point of the run that `progress_at` gave."""
        end = self.weight_decay if self.weight_decay_end is None else self.weight_decay_end
        return cosine(progress, self.weight_decay, end)


class Treatment(NamedTuple):
    """How the optimizer treats a parameter; parameters with the same treatment form a group."""

    lr_scale: float
    """Factor of the learning rate."""
    use_weight_decay: bool
    start: float = 0.0
    """Share of the run before the parameter learns."""


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
            Parameters that are not named (a head) and the final norm have the factor 1, as in MAE and DINOv2.
        layer_decay: the factor by which the learning rate falls from one layer to the one below it.

    Returns:
        Groups with the keys params, lr_scale, use_weight_decay and start, which `set_schedule` reads.
    """
    endings, rates = tuple(no_weight_decay), layer_rates(layers or {}, layer_decay)
    return group_alike(
        (parameter, Treatment(rates.get(name, 1.0), parameter.ndim > 1 and not name.endswith(endings)))
        for name, parameter in model.named_parameters()
    )


def layer_rates(layers: Mapping[str, int], layer_decay: float) -> dict[str, float]:
    """Factors of the learning rate by name: the last layer's is `layer_decay`; final norms are left out, theirs is 1.

    Args:
        layers: index of the layer by the parameter's name, 0 for the first.
    """
    inner = {name: layer for name, layer in layers.items() if not any(norm in name for norm in FINAL_NORMS)}
    top = max(inner.values(), default=0) + 1
    return {name: layer_decay ** (top - layer) for name, layer in inner.items()}


def group_alike(parameters: Iterable[tuple[nn.Parameter, Treatment]]) -> list[dict[str, Any]]:
    """Groups of the trainable parameters, those with weight decay first; `set_schedule` reads their other keys."""
    groups: dict[Treatment, list[nn.Parameter]] = {}
    for parameter, treatment in parameters:
        if parameter.requires_grad:
            groups.setdefault(treatment, []).append(parameter)
    decayed_first = sorted(groups, key=lambda treatment: not treatment.use_weight_decay)
    return [{"params": groups[treatment], **treatment._asdict()} for treatment in decayed_first]


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
    return adamw(
        config, parameter_groups(model, no_weight_decay=no_weight_decay, layers=layers, layer_decay=layer_decay)
    )


def adamw(config: OptimConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Builds AdamW over groups of `group_alike`; the learning rate is 0 until `set_schedule` sets it."""
    parameters = [p for group in groups for p in group["params"]]
    if any(map(is_dtensor, parameters)):  # no fused or foreach kernel takes sharded and whole parameters together
        return torch.optim.AdamW(groups, lr=0.0, betas=config.betas, foreach=False, fused=False)
    fused = all(p.device.type in ("cuda", "cpu") for p in parameters)
    return torch.optim.AdamW(groups, lr=0.0, betas=config.betas, fused=fused)


def set_schedule(optimizer: torch.optim.Optimizer, config: OptimConfig, *, progress: float, batch_size: int) -> float:
    """Sets learning rate and weight decay of every group; returns the learning rate of those that learn from the first step
    on, before `lr_scale`.

    Args:
        progress: what `OptimConfig.progress_at` gives.
        batch_size: images of the global batch.
    """
    weight_decay = config.weight_decay_at(progress)
    for group in optimizer.param_groups:
        start = group.get("start", 0.0)  # older checkpoints have none
        group["lr"] = config.lr_at(progress, batch_size=batch_size, start=start) * group["lr_scale"]
        group["weight_decay"] = weight_decay if group["use_weight_decay"] else 0.0
    return config.lr_at(progress, batch_size=batch_size)
