"""The ceiling of a step: its own matrix products, attention and convolutions, and nothing else."""

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
ATTENTION = "_scaled_dot_product"


class Call(NamedTuple):
    """An operation and what it was given; tensors as their layout."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """Of a tensor; `value` is what small integers, as seeds, were."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    value: Tensor | None


class Recorder(TorchDispatchMode):
    """Records the heavy operations of what runs under it; counts all its floating-point operations."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        own = {torch.ops.mkldnn._linear_pointwise: _products} if hasattr(torch.ops.mkldnn, "_linear_pointwise") else {}
        self.counter = FlopCounterMode(display=False, custom_mapping=own)

    @property
    def flops(self) -> int:
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
        if name in HEAVY or name.startswith(ATTENTION):
            self.calls.append(Call(func, tree_map(_layout, args), tree_map(_layout, kwargs or {})))
        return func(*args, **(kwargs or {}))


def replay(calls: list[Call], device: torch.device) -> Callable[[], None]:
    """A function that runs the operations one after the other; operands of one layout share their memory."""
    made: dict[tuple[Any, ...], Tensor] = {}

    def tensor(value: Any) -> Any:
        if not isinstance(value, Layout):
            return value
        if value.value is not None:
            return value.value
        key = (value.size, value.stride, value.dtype)
        if key not in made:
            reach = 1 + sum((n - 1) * stride for n, stride in zip(value.size, value.stride))
            flat = torch.zeros(reach, dtype=value.dtype, device=device)
            flat = flat.normal_() if value.dtype.is_floating_point else flat
            made[key] = flat.as_strided(value.size, value.stride)  # an expanded tensor has strides of 0
        return made[key]

    ready = [Call(c.function, tree_map(tensor, c.arguments), tree_map(tensor, c.keywords)) for c in calls]

    def run() -> None:
        with torch.no_grad():
            for function, arguments, keywords in ready:
                function(*arguments, **keywords)

    run()
    return run


def _products(x: tuple[int, ...], weight: tuple[int, ...], *rest: Any, **more: Any) -> int:
    """Operations of oneDNN's x [..., in] times weight [out, in], from their shapes."""
    return 2 * math.prod(x) * weight[0]


def _layout(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    kept = value.clone() if not value.dtype.is_floating_point and value.numel() < 16 else None
    return Layout(tuple(value.shape), value.stride(), value.dtype, kept)
