"""Mixed precision: what `autocast` and `tf32` set, and that they restore it."""

import pytest
import torch

from repre.utils.amp import autocast, tf32


@pytest.mark.parametrize(
    ("precision", "inside"), [(torch.bfloat16, "high"), (torch.float16, "high"), (torch.float32, "highest")]
)
def test_float32_products_are_tf32_under_mixed_precision_only(precision: torch.dtype, inside: str) -> None:
    assert torch.get_float32_matmul_precision() == "highest"
    with tf32(precision):
        assert torch.get_float32_matmul_precision() == inside
    assert torch.get_float32_matmul_precision() == "highest"


def test_autocast_of_float32_switches_autocast_off() -> None:
    x, device = torch.ones(2, 2), torch.device("cpu")
    with autocast(device, torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        with autocast(device, torch.float32):
            assert (x @ x).dtype == torch.float32
