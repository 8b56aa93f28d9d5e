"""The faster products against torch's own; where this processor has no use for them, only that nothing changes."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from repre.utils import onednn_linear as module
from repre.utils.onednn_linear import Linear, fast_linear, linear, mkl_is_slow, use_onednn_linear

able = pytest.mark.skipif(not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this torch has no oneDNN")


@pytest.fixture
def slow_mkl(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any processor counts as one where MKL is slow, and no product is too small."""
    monkeypatch.setattr(module, "mkl_is_slow", lambda: True)
    monkeypatch.setattr(module, "SMALLEST", 0)


def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with every call of the faster library."""
    calls: list[int] = []
    real = module._product

    def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        calls.append(1)
        return real(x, weight, bias)

    monkeypatch.setattr(module, "_product", product)
    return calls


CASES: dict[str, Callable[[], Tensor]] = {
    "rows": lambda: torch.randn(33, 20),
    "tokens": lambda: torch.randn(3, 7, 5, 20),
    "class tokens": lambda: torch.randn(6, 9, 20)[:, 0],
    "columns first": lambda: torch.randn(20, 12).t(),
    "one row": lambda: torch.randn(20),
    "one image": lambda: torch.randn(1, 20),
    "expanded": lambda: torch.randn(1, 20).expand(8, 20),
}


@able
@pytest.mark.usefixtures("slow_mkl")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("bias", [True, False])
def test_output_and_gradients_are_torchs(monkeypatch: pytest.MonkeyPatch, case: str, bias: bool) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(20, 31, bias=bias)
    x, calls, found = CASES[case](), taken(monkeypatch), []
    for layer, inside in ((plain, False), (copy.deepcopy(plain), True)):
        given = x.clone(memory_format=torch.preserve_format).requires_grad_()
        use_onednn_linear(layer)
        if inside:
            with fast_linear():
                y = layer(given)
        else:
            y = layer(given)
        y.square().sum().backward()
        found.append([y.detach(), given.grad, *(p.grad for p in layer.parameters())])
    for mine, theirs in zip(found[1], found[0]):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    assert len(calls) == (0 if case == "one row" else 3)


@able
@pytest.mark.usefixtures("slow_mkl")
def test_what_needs_no_gradient_costs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, calls = nn.Linear(8, 8), taken(monkeypatch)
    use_onednn_linear(layer)
    layer.weight.requires_grad_(False)
    x = torch.randn(4, 8, requires_grad=True)
    with fast_linear():
        layer(x).sum().backward()
    assert len(calls) == 2
    assert layer.weight.grad is None
    assert layer.bias.grad is not None


@pytest.mark.usefixtures("slow_mkl")
def test_nothing_else_takes_the_other_way(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = taken(monkeypatch)
    layer = nn.Linear(8, 8)
    state = list(layer.state_dict())
    use_onednn_linear(layer)
    assert type(layer) is Linear
    assert list(layer.state_dict()) == state
    x = torch.randn(4, 8)
    layer(x)
    with fast_linear():
        layer.double()(x.double())
        layer.float().to("meta")(x.to("meta"))
        with torch.autocast("cpu", torch.bfloat16):
            assert linear(x, torch.randn(3, 8)).dtype == torch.bfloat16
        exported = torch.export.export(nn.Sequential(Linear(8, 8)), (x,))
        torch.compile(nn.Sequential(Linear(8, 8)), backend="aot_eager", fullgraph=True)(x).sum().backward()
    assert "mkldnn" not in str(exported.graph)
    assert not calls


@pytest.mark.parametrize(
    ("vendor", "width", "slow"),
    [("AuthenticAMD", "AVX512", True), ("AuthenticAMD", "AVX2", False), ("GenuineIntel", "AVX512", False)],
)
def test_only_amd_with_avx512_is_slow(monkeypatch: pytest.MonkeyPatch, vendor: str, width: str, slow: bool) -> None:
    monkeypatch.setattr(module, "_processor", lambda: f"vendor_id : {vendor}")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: width)
    has_both = hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch.backends.mkl.is_available()
    assert mkl_is_slow.__wrapped__() == (slow and has_both)
