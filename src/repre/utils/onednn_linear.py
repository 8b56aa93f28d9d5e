"""Linear layers on AMD processors with AVX-512, computed by oneDNN instead of MKL.

torch computes float32 products on the CPU with MKL, which reaches about half the speed of an AMD processor with AVX-512
(docs/performance.md has measurements). oneDNN, which torch ships for its compiler, is faster there. It sums the same
products in another order, so results differ by float32 rounding. Therefore only training uses it, inside `fast_linear`:
elsewhere an encoder computes what timm's does, bit for bit.

This file calls a private operator of torch, `torch.ops.mkldnn._linear_pointwise`, and changes the class of layers.
`onednn_is_used` compares both with torch's own product once per process, and falls back to it if they fail.
"""

import functools
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

MIN_MULTIPLICATIONS = 2**20
"""Size of the smallest product that is computed by oneDNN; smaller ones are not worth the call."""

_inside_fast_linear: ContextVar[bool] = ContextVar("inside fast_linear", default=False)


@contextmanager
def fast_linear() -> Iterator[None]:
    """Inside, layers that `use_onednn_linear` converted compute with oneDNN, and so do their backward passes later."""
    token = _inside_fast_linear.set(True)
    try:
        yield
    finally:
        _inside_fast_linear.reset(token)


def use_onednn_linear(module: nn.Module) -> None:
    """Converts every `nn.Linear` inside to `Linear`, with the same weights and names, if oneDNN is used here."""
    if onednn_is_used():
        for layer in module.modules():
            if type(layer) is nn.Linear:
                layer.__class__ = Linear


class Linear(nn.Linear):
    """`nn.Linear`, computed by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Computes `F.linear`: x [..., in], weight [out, in], bias [out] -> [..., out]. Uses oneDNN inside `fast_linear`."""
    use_torch = (
        torch.compiler.is_compiling()  # the compiler chooses its own kernels, and exports must use public operators
        or not _inside_fast_linear.get()
        or not onednn_is_used()
        or x.ndim < 2
        or x.numel() * len(weight) < MIN_MULTIPLICATIONS
        or any(type(t) not in (Tensor, nn.Parameter) for t in (x, weight))  # sharded or fake tensors
        or any(t.device.type != "cpu" or t.dtype != torch.float32 for t in (x, weight))
        or torch.is_autocast_enabled("cpu")
    )
    if use_torch:
        return F.linear(x, weight, bias)
    # contiguous: for rows with gaps, such as class tokens, oneDNN would use its slow reference kernel
    output: Tensor = _OneDNNLinear.apply(x.flatten(0, -2).contiguous(), weight.contiguous(), bias)
    return output.unflatten(0, x.shape[:-1])


@functools.cache
def onednn_is_used() -> bool:
    """Whether MKL is slow on this processor, and oneDNN's product agrees with torch's. Warns once if it does not."""
    if not mkl_is_slow():
        return False
    try:
        _check_against_torch()
    except Exception as error:  # a private operator may fail in any way
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        warnings.warn(
            f"oneDNN's product failed its self-check ({reason}), so linear layers use torch's default product, which is "
            "slower on this processor",
            stacklevel=2,
        )
        return False
    return True


def mkl_is_slow() -> bool:
    """Whether this is an AMD processor with AVX-512, and torch has both libraries."""
    return (
        torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and "AuthenticAMD" in _processor_description()
    )


def _processor_description() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.read_text() if cpuinfo.exists() else platform.processor()


def _check_against_torch() -> None:
    """Raises an error if oneDNN's outputs and gradients differ from torch's by more than float32 rounding."""
    nn.Linear(1, 1, device="meta").__class__ = Linear
    generator = torch.Generator().manual_seed(0)  # the global one must not move

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float32, device="cpu")

    with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False):
        for in_dim, out_dim in ((24, 40), (40, 24)):  # the gradient of the weight has a formula for each
            x, weight, bias, gradient = draw(16, in_dim), draw(out_dim, in_dim), draw(out_dim), draw(16, out_dim)
            results = []
            for function in (_OneDNNLinear.apply, F.linear):
                inputs = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
                output = function(*inputs)
                results.append((output, *torch.autograd.grad(output, inputs, gradient)))
            torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [n, in], weight [out, in], bias [out] -> [n, out]."""
    output: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return output


def _weight_gradient(gradient: Tensor, x: Tensor) -> Tensor:
    """gradient [n, out], x [n, in] -> [out, in]. oneDNN copies the left operand, so the narrower one stands there."""
    if x.shape[1] < gradient.shape[1]:
        return _product(x.t(), gradient.t()).t()
    return _product(gradient.t(), x.t())


class _OneDNNLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous()
        x_needed, weight_needed, bias_needed = ctx.needs_input_grad
        return (
            _product(gradient, weight.t()) if x_needed else None,
            _weight_gradient(gradient, x) if weight_needed else None,
            gradient.sum(0) if bias_needed else None,
        )
