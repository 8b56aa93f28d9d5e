"""Tensors that are not sharded pass through; tests/faults/processes.py trains with weights sharded over two processes."""

import torch

from repre.utils.fsdp import distribute_like, full_tensors, is_dtensor, local_tensor, total_norm


def test_tensors_that_are_not_sharded_pass_through() -> None:
    x = torch.randn(3, 2)
    assert not is_dtensor(x)
    assert local_tensor(x) is x
    assert distribute_like(x, torch.zeros(3, 2)) is x
    tree = full_tensors({"a": [x, 1], "b": {"c": x}})
    assert tree["a"][0] is x
    assert tree["b"]["c"] is x
    assert tree["a"][1] == 1


def test_the_norm_is_that_of_all_values() -> None:
    tensors = [torch.randn(3, 2), torch.randn(5)]
    torch.testing.assert_close(total_norm(tensors), torch.cat([t.flatten() for t in tensors]).norm())
    assert total_norm([]) == 0
