"""Functions that are compiled for training steps, and stay as they are for everything else.

A step repeats the shapes of its run, so compiling them pays. Validations and diagnoses see other shapes, each of which would
be compiled too, and they watch modules by hooks, which a compiled function does not call.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Generic, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")

SHAPES = 64
"""Compilations of one function, by all models together, before torch gives up and runs it eagerly: views of two sizes,
student and teacher, with and without gradient, for every size of the pieces that a search tries."""

_inside_step: ContextVar[bool] = ContextVar("inside a training step", default=False)


@contextmanager
def compiled_step() -> Iterator[None]:
    """Inside, functions that were compiled are called compiled."""
    token = _inside_step.set(True)
    try:
        yield
    finally:
        _inside_step.reset(token)


class StepFunction(Generic[P, R]):
    """A function that can be compiled for training steps.

    Args:
        function: a pure function of tensors and plain values, or a method of a module.
    """

    def __init__(self, function: Callable[P, R]) -> None:
        self.function = function
        self._compiled: Callable[P, R] | None = None
        self._memory_budget = 1.0

    @property
    def is_compiled(self) -> bool:
        """Whether a call at this place would be compiled."""
        return self._compiled is not None and _inside_step.get()

    def compile(self, *, backend: str = "inductor", memory_budget: float = 1.0) -> None:
        """Compiles the function, anew for every shape that it meets.

        Args:
            backend: of `torch.compile`.
            memory_budget: share of the activations that are kept for the backward pass, in (0, 1]; the rest is computed
                again, the cheapest first. Below 1 the function must not draw random numbers: they would be drawn again.
        """
        import torch._dynamo.config as dynamo_config  # takes a second, so only what compiles imports it

        dynamo_config.recompile_limit = max(dynamo_config.recompile_limit, SHAPES)
        self._compiled = torch.compile(self.function, dynamic=False, backend=backend)
        self._memory_budget = memory_budget

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if self._compiled is None or not _inside_step.get():
            return self.function(*args, **kwargs)
        import torch._functorch.config as functorch_config

        with functorch_config.patch(activation_memory_budget=self._memory_budget):
            return self._compiled(*args, **kwargs)
