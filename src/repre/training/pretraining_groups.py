"""Parameter groups of pre-training: weight decay by the framework's rule, layers with their learning rates, heads that start
alone."""

from typing import Any

import torch
from torch import nn

from repre.models.repre import RePre
from repre.training.optim import OptimConfig, Treatment, adamw, group_alike, layer_rates


def pretraining_groups(config: OptimConfig, model: RePre) -> list[dict[str, Any]]:
    """Groups the trainable parameters of a model, as `repre.training.optim.parameter_groups`.

    - The framework decides which parameters of encoder and heads have weight decay (`Framework.uses_weight_decay`).
    - The encoder learns after `framework.head_warmup`.
    - Its layers have their own learning rates (`optim.layer_decay`). What it adds in front of the first layer, such as a
      mask token, belongs to layer 0.
    """
    framework, encoder = model.framework, model.encoder
    exempt = {f"encoder.{name}" for name in encoder.no_weight_decay}
    layers = dict.fromkeys((name for name, _ in encoder.named_parameters()), 0) | encoder.layer_ids()
    rates = {f"encoder.{name}": rate for name, rate in layer_rates(layers, config.layer_decay).items()}

    def treatment(name: str, parameter: nn.Parameter) -> Treatment:
        decays = parameter.ndim > 1 and name not in exempt
        if name.startswith("decoder."):
            return Treatment(1.0, decays)
        decays = framework.uses_weight_decay(name, parameter, default=decays)
        if not name.startswith("encoder."):
            return Treatment(1.0, decays)
        scale = config.patch_embed_lr_scale if ".patch_embed." in name else 1.0
        return Treatment(rates.get(name, 1.0) * scale, decays, framework.config.head_warmup)

    return group_alike((parameter, treatment(name, parameter)) for name, parameter in model.named_parameters())


def build_pretraining_optimizer(config: OptimConfig, model: RePre) -> torch.optim.Optimizer:
    """Builds AdamW over `pretraining_groups`; the learning rate is 0 until `repre.training.optim.set_schedule` sets it."""
    return adamw(config, pretraining_groups(config, model))
