"""Lower bound on the time of a step: its own matrix products, attention and convolutions, and nothing else."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode

HEAVY = ("mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward", "_linear_pointwise")
ATTENTION_PREFIX = "_scaled_dot_product"


class Call(NamedTuple):
    """A recorded call of an operation, with a `Layout` in place of every tensor."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """Layout of a tensor."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    value: Tensor | None
    """The tensor itself if it holds a few integers, such as random seeds."""


class Recorder(TorchDispatchMode):
    """Context manager that records the heavy operations inside it and counts the FLOPs of all operations."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        has_onednn = hasattr(torch.ops.mkldnn, "_linear_pointwise")
        mapping = {torch.ops.mkldnn._linear_pointwise: _linear_flops} if has_onednn else {}
        self.counter = FlopCounterMode(display=False, custom_mapping=mapping)

    @property
    def flops(self) -> int:
        """FLOPs of everything that ran inside the recorder."""
        return int(self.counter.get_total_flops())

    def __enter__(self) -> "Recorder":
        self.counter.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.counter.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in HEAVY or name.startswith(ATTENTION_PREFIX):
            self.calls.append(Call(func, tree_map(_layout, args), tree_map(_layout, kwargs or {})))
        return func(*args, **(kwargs or {}))


def replay(calls: list[Call], device: torch.device) -> Callable[[], None]:
    """Returns a function that runs recorded calls one after the other; operands of equal layout share memory."""
    tensors: dict[tuple[Any, ...], Tensor] = {}

    def operand(value: Any) -> Any:
        if not isinstance(value, Layout):
            return value
        if value.value is not None:
            return value.value
        key = (value.size, value.stride, value.dtype)
        if key not in tensors:
            length = 1 + sum((n - 1) * stride for n, stride in zip(value.size, value.stride))
            flat = torch.zeros(length, dtype=value.dtype, device=device)
            flat = flat.normal_() if value.dtype.is_floating_point else flat
            tensors[key] = flat.as_strided(value.size, value.stride)  # an expanded tensor has strides of 0
        return tensors[key]

    ready = [Call(call.function, tree_map(operand, call.args), tree_map(operand, call.kwargs)) for call in calls]

    def run() -> None:
        with torch.no_grad():
            for function, args, kwargs in ready:
                function(*args, **kwargs)

    run()
    return run


def _linear_flops(x: tuple[int, ...], weight: tuple[int, ...], *args: Any, **kwargs: Any) -> int:
    """FLOPs of oneDNN's x [..., in] times weight [out, in], from their shapes."""
    return 2 * math.prod(x) * weight[0]


def _layout(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    is_small = not value.dtype.is_floating_point and value.numel() < 16
    return Layout(tuple(value.shape), value.stride(), value.dtype, value.clone() if is_small else None)
