"""Weights split over the processes (FSDP2; Zhao et al. 2023, arXiv 2304.11277), and whole where they are asked for.

Every function also works, as the identity, on tensors that are not split.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from repre.utils.dist import world_size


def shard(module: nn.Module, *, device: torch.device) -> None:
    """Leaves each process a part of every parameter. They meet block by block while the module computes, and its gradients
    arrive averaged over the processes, as parts."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # our features are views of the module's output, and nothing is changed in place
    warnings.filterwarnings("ignore", message=".*FSDP2-wrapped module.*returned a view")
    mesh = init_device_mesh(device.type, (world_size(),))
    for name, part in module.named_modules():
        if name.endswith("blocks") and isinstance(part, nn.Sequential | nn.ModuleList):
            for block in part:
                fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh, reshard_after_forward=True)  # a teacher has no backward that would do it


def is_dtensor(x: Tensor) -> bool:
    """Whether this process holds only a part of a tensor."""
    return hasattr(x, "to_local")


def local_tensor(x: Tensor) -> Tensor:
    """The part of a tensor that this process holds; changes to it in place hold."""
    return x.to_local() if is_dtensor(x) else x  # type: ignore[attr-defined]


def full_tensors(tree: Any) -> Any:
    """Nested dictionaries and lists with every tensor whole, those that were split on the CPU; a collective call."""
    if isinstance(tree, Mapping):
        return {key: full_tensors(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [full_tensors(value) for value in tree]
    if isinstance(tree, Tensor) and is_dtensor(tree):
        return tree.full_tensor().cpu()  # type: ignore[attr-defined]
    return tree


def distribute_like(value: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor, split as `like` is; the tensor itself where that is whole."""
    if not is_dtensor(like) or value.shape != like.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    return distribute_tensor(value.to(like.device), mesh, placements, src_data_rank=None)


def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Norm over all tensors, whole: a collective call where some are split."""
    found = torch.nn.utils.get_total_norm([x for x in tensors if not is_dtensor(x)])
    parts = [local_tensor(x) for x in tensors if is_dtensor(x)]
    if not parts:
        return found
    squared = torch.nn.utils.get_total_norm(parts).square()
    torch.distributed.all_reduce(squared)
    return (found.square().to(squared.device) + squared).sqrt()
