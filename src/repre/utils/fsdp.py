"""Weights sharded over processes with FSDP2 (Zhao et al. 2023, arXiv 2304.11277), and full copies of them.

Every function leaves tensors that are not sharded as they are.
"""

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from repre.utils.dist import is_main_process, world_size

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def shard(module: nn.Module, *, device: torch.device) -> None:
    """Leaves each process a part of every parameter, on the device.

    The parts are gathered block by block while the module computes. Gradients arrive averaged over the processes, as parts.

    Args:
        module: an encoder on the CPU; the layers of every container named ``blocks`` are moved and sharded one by one. So
            the device never holds all of it.
        device: where it computes.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # FSDP2 warns of outputs that are views, which must not be changed in place; no code here does that
    warnings.filterwarnings("ignore", message=".*FSDP2-wrapped module.*returned a view")
    mesh = init_device_mesh(device.type, (world_size(),))
    for name, child in module.named_modules():
        if name.endswith("blocks") and isinstance(child, nn.Sequential | nn.ModuleList):
            for block in child:
                fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh, reshard_after_forward=True)  # a teacher has no backward pass to reshard it


def is_dtensor(x: Tensor) -> bool:
    """Whether this process holds only a part of the tensor."""
    return hasattr(x, "to_local")


def local_tensor(x: Tensor) -> Tensor:
    """The part that this process holds, sharing its memory; the tensor itself if it is not sharded."""
    return x.to_local() if is_dtensor(x) else x  # type: ignore[attr-defined]


def move_rest(module: nn.Module, *, device: torch.device) -> None:
    """Moves the parameters and buffers that are not sharded."""
    for tensor in (*module.parameters(), *module.buffers()):
        if not is_dtensor(tensor):
            tensor.data = tensor.data.to(device)


def full_tensors(tree: Any) -> Any:
    """Nested dictionaries and lists with every sharded tensor gathered, on the CPU; a collective call.

    Only the main process keeps what was gathered, the others get None for it. A device holds one whole tensor at a time.
    """
    if isinstance(tree, Mapping):
        return {key: full_tensors(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [full_tensors(value) for value in tree]
    return _gather(tree) if isinstance(tree, Tensor) and is_dtensor(tree) else tree


def _gather(tensor: Tensor) -> Tensor | None:
    """A sharded tensor as a whole on the main process, on the CPU; None on the others, which send their parts."""
    part = tensor.to_local().detach()  # type: ignore[attr-defined]
    rows = -(-len(tensor) // world_size())  # of a part; the last parts may have fewer, down to none
    if len(part) < rows:
        part = torch.cat([part, part.new_zeros(rows - len(part), *part.shape[1:])])
    parts = [torch.empty_like(part) for _ in range(world_size())] if is_main_process() else None
    torch.distributed.gather(part.contiguous(), parts)
    return None if parts is None else torch.cat(parts)[: len(tensor)].cpu()


def without_weights(module: ModuleT) -> ModuleT:
    """A copy of a module whose parameters and buffers have shapes but no values."""
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): _without_values(tensor) for tensor in tensors})


def _without_values(tensor: Tensor) -> Tensor:
    empty = tensor.detach().to("meta")
    return nn.Parameter(empty, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def copy_state(source: nn.Module, target: nn.Module | None) -> None:
    """Copies all parameters and buffers, gathered one by one, into an unsharded module; a collective call.

    Args:
        target: a module of the same structure on the main process, None on the others.
    """
    own = {} if target is None else {**dict(target.named_parameters()), **dict(target.named_buffers())}
    with torch.no_grad():
        for name, value in (*source.named_parameters(), *source.named_buffers()):
            whole = full_tensors(value)
            if own:
                own[name].copy_(whole)


def distribute_like(value: Tensor, like: Tensor) -> Tensor:
    """Shards a full tensor as `like` is; returns `value` itself if `like` is not sharded or has another shape."""
    if not is_dtensor(like) or value.shape != like.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    return distribute_tensor(value.to(like.device), mesh, placements, src_data_rank=None)


def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """The norm of all values of all tensors; a collective call if some are sharded."""
    norm, squares = partial_norms(tensors)
    if squares is None:
        return norm
    torch.distributed.all_reduce(squares)
    return join_norms(norm, squares)


def partial_norms(tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """The norm of the tensors that are not sharded, and the squared norm of this process's parts of the others.

    Sum the latter over the processes and pass both to `join_norms`; it is None if nothing is sharded.
    """
    norm = nn.utils.get_total_norm([x for x in tensors if not is_dtensor(x)])
    parts = [local_tensor(x) for x in tensors if is_dtensor(x)]
    return norm, nn.utils.get_total_norm(parts).square() if parts else None


def whole_norms(tensors: Sequence[Tensor]) -> Tensor:
    """The norm of each tensor, [n]; a collective call if some are sharded, all of which must be on one device."""
    norms = list(torch._foreach_norm([local_tensor(x) for x in tensors]))
    sharded = [number for number, x in enumerate(tensors) if is_dtensor(x)]
    if sharded:
        squares = torch.stack([norms[number] for number in sharded]).square()
        torch.distributed.all_reduce(squares)
        for number, square in zip(sharded, squares.unbind()):
            norms[number] = square.sqrt()
    return torch.stack(norms)


def join_norms(norm: Tensor, squares: Tensor) -> Tensor:
    """The norm of everything, from the norm of what is not sharded and the squared norm of what is."""
    return (norm.square().to(squares.device) + squares).sqrt()
