"""A function is compiled inside a training step only."""

import torch
from torch import Tensor

from repre.utils.step_compile import StepFunction, compiled_step


def test_calls_are_compiled_inside_a_step_and_eager_outside() -> None:
    def function(x: Tensor) -> Tensor:
        return x + 1 if torch.compiler.is_compiling() else x

    step_function, x = StepFunction(function), torch.zeros(3)
    with compiled_step():
        assert not step_function.is_compiled
        assert torch.equal(step_function(x), x)
    step_function.compile(backend="eager")
    assert not step_function.is_compiled
    assert torch.equal(step_function(x), x)
    with compiled_step():
        assert step_function.is_compiled
        assert torch.equal(step_function(x), x + 1)
