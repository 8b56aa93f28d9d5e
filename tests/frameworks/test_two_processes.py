"""Two processes (gloo) train exactly as one with the same global batch: losses, gradients, teacher, queue, center."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from repre.losses import sinkhorn_knopp
from repre.models.encoder import Encoder
from repre.models.norms import BatchNorm
from repre.models.repre import RePre
from repre.training import step as training_step
from repre.training.monitoring.step_metrics import step_metrics
from repre.training.optim import OptimConfig, build_optimizer
from repre.training.step import train_step
from repre.utils import gradient_exchange
from repre.utils.dist import all_gather_with_grad, mean_over_ranks, rank, sum_over_ranks, world_size
from repre.utils.fsdp import copy_state, full_tensors, is_dtensor, move_rest, shard
from repre.utils.gradient_exchange import exchange_gradients
from tests import tiny

pytestmark = pytest.mark.slow

STEPS, BATCH = 5, 8
CASES = [(f, e, 0.0) for f in tiny.FRAMEWORKS for e in tiny.ENCODERS]
CASES += [("moco-v3", "vit", 2.0), ("dino", "swin", 2.0)]
"""Framework, encoder and the ratio at which the branch's gradient is held, if it is."""


def train(framework: str, encoder: str, balance: float) -> list[dict[str, torch.Tensor]]:
    """A few float64 steps on this rank's share of each batch; after every one, all that must agree."""
    model = tiny.tiny_model(framework, encoder, drop_path=0.3, reconstruction={"balance": balance}).double()
    config = OptimConfig(lr=1e-3, warmup_fraction=0.0, clip_grad_norm=3.0)
    optimizer = build_optimizer(config, model)
    record = []
    for step in range(STEPS):
        share = BATCH // world_size()
        views = tiny.double(tiny.tiny_views(framework, encoder, batch=BATCH, seed=step, local_share=1))
        views = tiny.part(views, slice(rank() * share, (rank() + 1) * share))
        use_cache = world_size() > 1 and step in (1, 2) and not balance
        seen: dict[str, torch.Tensor] = {}

        def copy_gradients(seen: dict[str, torch.Tensor]) -> None:
            seen |= {f"gradient {n}": p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

        result = train_step(
            model,
            optimizer,
            views,
            optim=config,
            batch_size=256,
            progress=step / STEPS,
            seed=step,
            micro_batch=2 if use_cache else 0,
            flags=(rank() == 1, False),
            overlap=partial(copy_gradients, seen),
        )
        assert result.flags == (world_size() > 1, False)
        seen["total"], seen["norm"] = torch.tensor(result.loss).double(), torch.tensor(result.grad_norm).double()
        seen["contrastive"] = mean_over_ranks(result.losses.contrastive.detach())
        metrics = step_metrics(result.losses.output)
        seen |= {f"metric {n}": mean_over_ranks(v).double() for n, v in metrics.items()}
        record.append(seen | {f"state {n}": v.clone() for n, v in model.state_dict().items()})
    return record


@contextmanager
def compared_exchange(model: RePre, *, first: nn.Module) -> Iterator[None]:
    """Exchanges gradients, and compares them bit for bit with those of one sum over ranks after the backward pass."""
    with exchange_gradients(model, first=first):
        yield
        parameters = [p for p in model.parameters() if p.grad is not None]
        flat = torch.cat([p.grad.reshape(-1) for p in parameters])  # type: ignore[union-attr]
        dist.all_reduce(flat)
        flat /= world_size()
    assert torch.equal(torch.cat([p.grad.reshape(-1) for p in parameters]), flat)  # type: ignore[union-attr]


def small_operations() -> dict[str, torch.Tensor]:
    """Gather, sum, batch normalization and Sinkhorn-Knopp, with gradients, on this rank's share of fixed data."""
    x = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    share = 6 // world_size()
    mine = slice(rank() * share, (rank() + 1) * share)
    leaf = x[mine].clone().requires_grad_()
    normalized = BatchNorm(3).double()(leaf)
    counted = torch.tensor([True, False, False, True, True, True])  # not as many on each rank
    (normalized * weight[mine]).mean().backward()
    return {
        "normalized": all_gather_with_grad(normalized.detach()),
        "gathered": all_gather_with_grad(x[mine]),
        "sum": sum_over_ranks(x[mine].sum(0)),
        "gradient": all_gather_with_grad(leaf.grad) / world_size(),
        "sinkhorn": all_gather_with_grad(sinkhorn_knopp(x[mine], temperature=0.5, counted=counted[mine])),
        "gradient of two gathers": all_gather_with_grad(_gradient_of_two_gathers(x[mine])) / world_size(),
    }


def _gradient_of_two_gathers(x: torch.Tensor) -> torch.Tensor:
    """Both gathers receive the same gradient tensor from the addition; one must not change it for the other."""
    first, second = x.clone().requires_grad_(), x.clone().requires_grad_()
    (all_gather_with_grad(first) + all_gather_with_grad(second)).sum().backward()
    return torch.cat([first.grad, second.grad], dim=1)


def sharded_and_gathered() -> dict[str, torch.Tensor]:
    """The state of a model that was sharded, copied back whole on the main process; nothing on the other."""
    model = tiny.tiny_model("dino", "vit")
    copy = tiny.tiny_model("dino", "vit", seed=1) if rank() == 0 else None
    for encoder in [m for m in model.modules() if isinstance(m, Encoder)]:
        shard(encoder, device=torch.device("cpu"))
    move_rest(model, device=torch.device("cpu"))
    assert all(is_dtensor(p) for p in model.encoder.parameters())
    assert not any(is_dtensor(p) for p in model.framework.projector.parameters())
    copy_state(model, copy)
    gathered = full_tensors({"all": list(model.encoder.parameters())})
    assert (gathered["all"][0] is None) == (copy is None)
    return {} if copy is None else dict(copy.state_dict())


def process(number: int, folder: str) -> None:
    torch.set_num_threads(1)
    gradient_exchange.BUCKET_BYTES = 2**14  # many buckets
    training_step.exchange_gradients = compared_exchange
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=number, world_size=2)
    try:
        found: dict[str, Any] = {f"{case}": train(*case) for case in CASES}
        found["operations"] = small_operations()
        found["gathered"] = sharded_and_gathered()
        torch.save(found, Path(folder) / f"{number}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(process, args=(folder,), nprocs=2)
        return [torch.load(Path(folder) / f"{number}.pt", weights_only=True) for number in range(2)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_training_equals_one_process(two_processes: list[dict[str, Any]], case: tuple[str, str, float]) -> None:
    alone = train(*case)
    for number, found in enumerate(two_processes):
        for step, (mine, theirs) in enumerate(zip(alone, found[f"{case}"])):
            assert mine.keys() == theirs.keys()
            for name, value in mine.items():
                limit = 1e-5 if name.startswith(("metric", "total", "norm")) else 1e-9  # float32
                close = torch.allclose(value, theirs[name], rtol=limit, atol=limit)
                assert close, f"rank {number}, step {step}: {name} differs by {(value - theirs[name]).abs().max()}"


def test_operations_over_ranks_equal_one_batch(two_processes: list[dict[str, Any]]) -> None:
    alone = small_operations()
    for found in two_processes:
        for name, value in alone.items():
            torch.testing.assert_close(found["operations"][name], value, rtol=1e-12, atol=1e-12)


def test_a_sharded_model_is_gathered_on_the_main_process_alone(two_processes: list[dict[str, Any]]) -> None:
    expected, (main, other) = (
        tiny.tiny_model("dino", "vit").state_dict(),
        (found["gathered"] for found in two_processes),
    )
    assert not other
    assert main.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(main[name], value), name
