"""oneDNN's products against torch's own, on a processor that is made to look like one where MKL is slow."""

import copy
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repre.utils import onednn_linear as module
from repre.utils.onednn_linear import Linear, fast_linear, linear, mkl_is_slow, onednn_is_used, use_onednn_linear

OPERATOR = "mkldnn::_linear_pointwise"
needs_onednn = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise") or not torch.backends.mkl.is_available(),
    reason="this torch lacks oneDNN's operator or MKL",
)


@pytest.fixture
def amd(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Any processor counts as AMD's with AVX-512, and no product is too small for oneDNN."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(module, "_processor_description", lambda: "vendor_id : AuthenticAMD")
    monkeypatch.setattr(module, "MIN_MULTIPLICATIONS", 0)
    onednn_is_used.cache_clear()
    yield
    onednn_is_used.cache_clear()


def count_products(function: Callable[[], Any]) -> int:
    """How often `function` calls oneDNN's operator."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        function()
    return sum(event.count for event in profile.key_averages() if event.key == OPERATOR)


INPUTS: dict[str, Callable[[], Tensor]] = {
    "rows": lambda: torch.randn(33, 20),
    "tokens": lambda: torch.randn(3, 7, 5, 20),
    "class tokens": lambda: torch.randn(6, 9, 20)[:, 0],
    "columns first": lambda: torch.randn(20, 12).t(),
    "one row": lambda: torch.randn(20),
    "one image": lambda: torch.randn(1, 20),
    "expanded": lambda: torch.randn(1, 20).expand(8, 20),
}


@needs_onednn
@pytest.mark.usefixtures("amd")
@pytest.mark.parametrize("case", INPUTS)
@pytest.mark.parametrize("bias", [True, False])
def test_output_and_gradients_are_torchs(case: str, bias: bool) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(20, 31, bias=bias)
    converted = copy.deepcopy(plain)
    use_onednn_linear(converted)
    x = INPUTS[case]()

    def compute(layer: nn.Module) -> list[Tensor | None]:
        leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
        output = layer(leaf)
        output.square().sum().backward()
        return [output.detach(), leaf.grad, *(p.grad for p in layer.parameters())]

    results = [compute(plain)]
    with fast_linear():
        assert count_products(lambda: results.append(compute(converted))) == (0 if case == "one row" else 3)
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@needs_onednn
@pytest.mark.usefixtures("amd")
def test_gradients_that_nobody_needs_are_not_computed() -> None:
    layer = nn.Linear(8, 8)
    use_onednn_linear(layer)
    layer.weight.requires_grad_(False)
    x = torch.randn(4, 8, requires_grad=True)
    with fast_linear():
        assert count_products(lambda: layer(x).sum().backward()) == 2
    assert layer.weight.grad is None
    assert layer.bias.grad is not None


@needs_onednn
@pytest.mark.usefixtures("amd")
def test_outside_and_for_other_types_torch_computes() -> None:
    layer = nn.Linear(8, 8)
    names = list(layer.state_dict())
    use_onednn_linear(layer)
    assert type(layer) is Linear
    assert list(layer.state_dict()) == names
    x = torch.randn(4, 8)

    def compute() -> None:
        layer(x)
        with fast_linear():
            layer.double()(x.double())
            layer.float().to("meta")(x.to("meta"))
            with torch.autocast("cpu", torch.bfloat16):
                assert linear(x, torch.randn(3, 8)).dtype == torch.bfloat16
            exported = torch.export.export(nn.Sequential(Linear(8, 8)), (x,))
            torch.compile(nn.Sequential(Linear(8, 8)), backend="aot_eager", fullgraph=True)(x).sum().backward()
        assert "mkldnn" not in str(exported.graph)

    assert count_products(compute) == 0


@needs_onednn
@pytest.mark.usefixtures("amd")
@pytest.mark.parametrize(
    "context",
    [torch.no_grad, torch.inference_mode, lambda: torch.device("meta"), lambda: torch.autocast("cpu", torch.bfloat16)],
)
def test_the_self_check_passes_anywhere_and_draws_nothing(context: Callable[[], Any]) -> None:
    state = torch.get_rng_state()
    with warnings.catch_warnings(), context():
        warnings.simplefilter("error")
        assert onednn_is_used()
    assert torch.equal(state, torch.get_rng_state())


def fail(*arguments: Any) -> Tensor:
    raise RuntimeError("no such kernel\nwith details")


def off_by_a_little(x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
    return F.linear(x, weight, bias) * (1 + 1e-3)


def wrong_for_transposed_operands(x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
    return F.linear(x, weight, bias) + (0.0 if weight.is_contiguous() else 1.0)


@pytest.mark.usefixtures("amd")
@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="this torch has no MKL")
@pytest.mark.parametrize(
    ("operators", "reason"),
    [
        ({}, "_linear_pointwise"),
        ({"_linear_pointwise": fail}, "no such kernel"),
        ({"_linear_pointwise": lambda x, weight: F.linear(x, weight)}, "positional argument"),
        ({"_linear_pointwise": off_by_a_little}, "not close"),
        ({"_linear_pointwise": wrong_for_transposed_operands}, "not close"),
    ],
    ids=["missing", "raising", "other signature", "wrong forward", "wrong backward"],
)
def test_a_broken_operator_is_not_used_and_warned_of_once(
    monkeypatch: pytest.MonkeyPatch, operators: dict[str, Any], reason: str
) -> None:
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace(**operators))
    layer, x = nn.Linear(8, 8), torch.randn(4, 8)
    with warnings.catch_warnings(record=True) as record, fast_linear():
        warnings.simplefilter("always")
        for _ in range(2):
            use_onednn_linear(layer)
            output = linear(x, layer.weight, layer.bias)
    [message] = [str(warning.message) for warning in record]
    assert reason in message
    assert "so linear layers use torch's default product" in message
    assert type(layer) is nn.Linear
    assert torch.equal(output, F.linear(x, layer.weight, layer.bias))


@pytest.mark.parametrize(
    ("vendor", "capability", "slow"),
    [("AuthenticAMD", "AVX512", True), ("AuthenticAMD", "AVX2", False), ("GenuineIntel", "AVX512", False)],
)
def test_mkl_is_slow_on_amd_with_avx512_only(
    monkeypatch: pytest.MonkeyPatch, vendor: str, capability: str, slow: bool
) -> None:
    monkeypatch.setattr(module, "_processor_description", lambda: f"vendor_id : {vendor}")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    has_both = torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()
    assert mkl_is_slow() == (slow and has_both)
