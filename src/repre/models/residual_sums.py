"""Residual sums of flat transformers in bfloat16 on CUDA: half the memory and traffic."""

from typing import Any

import torch
from torch import Tensor, nn


def use_bfloat16_sums(model: Any) -> None:
    """Makes a timm model add up its residual stream in bfloat16 on CUDA under its autocast.

    Positions are float32 parameters, and adding them to the patches would make all sums float32. Norms are still computed in
    float32, and so is the embedding; the CPU's autocast would leave them in bfloat16.
    """
    if hasattr(model, "norm_pre"):  # of flat transformers: the first thing that their tokens pass
        model.norm_pre.register_forward_hook(_in_bfloat16)


def _in_bfloat16(module: nn.Module, inputs: Any, tokens: Tensor) -> Tensor:
    if not tokens.is_cuda or not torch.is_autocast_enabled("cuda"):
        return tokens
    return tokens.to(torch.bfloat16) if torch.get_autocast_dtype("cuda") is torch.bfloat16 else tokens
