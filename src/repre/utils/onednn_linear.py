"""Matrix products of linear layers on AMD's processors: oneDNN's, which use AVX-512 there, where MKL's do not.

torch sends float32 products on the CPU to MKL, which leaves half of what an AMD processor with AVX-512 can do unused
(docs/performance.md has the figures). oneDNN, which torch carries for its compiler, gives the same float32 sums in another
order of adding. So only training asks for it, with `fast_linear`: elsewhere an encoder computes what timm's does, bit for
bit.
"""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

SMALLEST = 2**20
"""Multiplications of the smallest product that is worth the call."""


_asked: ContextVar[bool] = ContextVar("fast products", default=False)


@contextmanager
def fast_linear() -> Iterator[None]:
    """Linear layers that were quickened use the faster library inside; backward passes follow their forward passes."""
    before = _asked.set(True)
    try:
        yield
    finally:
        _asked.reset(before)


def use_onednn_linear(module: nn.Module) -> None:
    """Makes every linear layer inside use `linear`; same weights, same names. Does nothing where MKL is as fast."""
    if mkl_is_slow():
        for part in module.modules():
            if type(part) is nn.Linear:
                part.__class__ = Linear


class Linear(nn.Linear):
    """A linear layer whose products are `linear`'s."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """torch's of x [..., in], weight [out, in], bias [out] -> [..., out]; inside `fast_linear` by the faster library."""
    plain = (
        torch.compiler.is_compiling()  # the compiler chooses for itself, and exports have to be in torch's own words
        or not _asked.get()
        or not mkl_is_slow()
        or x.ndim < 2
        or x.numel() * len(weight) < SMALLEST
        or any(type(t) not in (Tensor, nn.Parameter) for t in (x, weight))  # parts of tensors, tensors without values
        or any(t.device.type != "cpu" or t.dtype != torch.float32 for t in (x, weight))
        or torch.is_autocast_enabled("cpu")
    )
    if plain:
        return F.linear(x, weight, bias)
    # rows with gaps, as those of class tokens, would fall to its slow reference
    found: Tensor = _Linear.apply(x.flatten(0, -2).contiguous(), weight.contiguous(), bias)
    return found.unflatten(0, x.shape[:-1])


@lru_cache
def mkl_is_slow() -> bool:
    """Whether this is an AMD processor with AVX-512, and torch has both libraries."""
    return (
        torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and "AuthenticAMD" in _processor()
    )


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    return facts.read_text() if facts.exists() else platform.processor()


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return found


def _gradient_of_weight(gradient: Tensor, x: Tensor) -> Tensor:
    """gradient [n, out], x [n, in] -> [out, in]. What stands on the left is copied, so that is the narrower one."""
    if x.shape[1] < gradient.shape[1]:
        return _product(x.t(), gradient.t()).t()
    return _product(gradient.t(), x.t())


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous()
        wanted = ctx.needs_input_grad
        return (
            _product(gradient, weight.t()) if wanted[0] else None,
            _gradient_of_weight(gradient, x) if wanted[1] else None,
            gradient.sum(0) if wanted[2] else None,
        )
