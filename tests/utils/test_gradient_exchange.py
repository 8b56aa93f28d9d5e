"""Gradients are exchanged while the backward pass runs, and come out as if they were averaged after it."""

import gc
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from repre.utils import gradient_exchange
from repre.utils.gradient_exchange import exchange_gradients

RANKS = 4


class Toy(nn.Module):
    """Trunk, head and branch, and a layer that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 8))
        self.head, self.branch, self.unused = nn.Linear(8, 4), nn.Linear(8, 2), nn.Linear(8, 8)
        self.head.bias.requires_grad_(False)

    def whole(self, x: Tensor) -> None:
        features = self.trunk(x)
        (self.head(features).square().sum() + self.branch(features).square().sum()).backward()

    def without_branch(self, x: Tensor) -> None:
        self.head(self.trunk(x)).square().sum().backward()

    def pieces(self, x: Tensor) -> None:
        """The head's gradient is complete before the trunk's and the branch's."""
        self.head(self.trunk(x).detach()).square().sum().backward()
        for piece in x.split(2):
            features = self.trunk(piece)
            (features.square().sum() + self.branch(features).square().sum()).backward()

    def shared(self, x: Tensor) -> None:
        """The head is used in the first backward pass and in the later ones."""
        self.pieces(x)
        self.head(self.trunk(x)).square().sum().backward()


STEPS = [Toy.whole, Toy.whole, Toy.without_branch, Toy.without_branch, Toy.pieces, Toy.pieces, Toy.shared, Toy.shared]
STEPS += [Toy.whole]


def process(number: int, folder: str) -> None:
    """Records, for every step, the gradients, those of an exchange after the step, and how many sums were started in it."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=number, world_size=RANKS)
    try:
        torch.save(_record(number), Path(folder) / f"{number}.pt")
    finally:
        dist.destroy_process_group()


def _record(number: int) -> list[Any]:
    gradient_exchange.BUCKET_BYTES = 128
    started = 0
    all_reduce = dist.all_reduce

    def count(*args: Any, **kwargs: Any) -> Any:
        nonlocal started
        started += 1
        return all_reduce(*args, **kwargs)

    torch.manual_seed(0)
    model = Toy().double()
    record = []
    for index, compute in enumerate(STEPS):
        model.zero_grad()
        generator = torch.Generator().manual_seed(RANKS * index + number)
        x = torch.randn(6, 8, dtype=torch.float64, generator=generator)
        dist.all_reduce, started = count, 0
        with exchange_gradients(model, first=model.head):
            compute(model, x)
            early = started
            dist.all_reduce = all_reduce
            afterwards = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
            for gradient in afterwards.values():
                dist.all_reduce(gradient)
                gradient /= RANKS
        found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        record.append((found, afterwards, early))
    return record


@pytest.fixture(scope="module")
def records() -> list[list[Any]]:
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(process, args=(folder,), nprocs=RANKS)
        return [torch.load(Path(folder) / f"{number}.pt", weights_only=True) for number in range(RANKS)]


@pytest.mark.slow
def test_gradients_equal_an_exchange_after_the_step(records: list[list[Any]]) -> None:
    for record in records:
        for (found, afterwards, _), (first, _, _) in zip(record, records[0]):
            assert found.keys() == afterwards.keys() == first.keys()
            for name, value in found.items():
                torch.testing.assert_close(value, afterwards[name], rtol=1e-13, atol=1e-13)
                assert torch.equal(value, first[name])


@pytest.mark.slow
def test_sums_start_during_a_step_that_is_like_the_one_before(records: list[list[Any]]) -> None:
    whole, whole_again, without_branch, without_branch_again, _, pieces_again, *_ = (s for *_, s in records[0])
    assert whole == 0  # how often a gradient is added to is not known yet
    assert without_branch < without_branch_again < whole_again
    assert pieces_again == whole_again
    for record in records:
        assert [started for *_, started in record] == [started for *_, started in records[0]]


@pytest.fixture
def two_ranks(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """A group in which the other rank has the same gradients; returns how many sums were started."""
    sums = 0

    class Done:
        def wait(self) -> None:
            pass

    def double(x: Tensor, async_op: bool = False) -> Done:
        nonlocal sums
        sums += 1
        x *= 2
        return Done()

    monkeypatch.setattr(gradient_exchange, "world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", double)
    return lambda: sums


def one_step(model: Toy, compute: Callable[[Toy, Tensor], None] = Toy.whole) -> None:
    model.zero_grad()
    with exchange_gradients(model, first=model.head):
        compute(model, torch.ones(6, 8))


def test_an_interrupted_step_leaves_nothing_behind(two_ranks: Callable[[], int]) -> None:
    def interrupted(model: Toy, x: Tensor) -> None:
        model.pieces(x)
        raise RuntimeError("out of memory")

    model = Toy()
    one_step(model)
    one_step(model)
    expected, sums = model.trunk[0].weight.grad.clone(), two_ranks()
    with pytest.raises(RuntimeError, match="out of memory"):
        one_step(model, interrupted)
    before = two_ranks()
    model.zero_grad()
    model.whole(torch.ones(6, 8))  # outside: a local gradient
    assert two_ranks() == before
    one_step(model)
    assert torch.equal(model.trunk[0].weight.grad, expected)
    assert sums == 2 * (two_ranks() - before)


def test_hooks_end_with_the_model(two_ranks: Callable[[], int]) -> None:
    model = Toy()
    one_step(model)
    assert two_ranks() == 1
    weight = weakref.ref(model.trunk[0].weight)
    del model
    gc.collect()
    assert weight() is None


def test_one_process_has_no_hooks() -> None:
    model = Toy()
    one_step(model)
    assert all(not p._post_accumulate_grad_hooks for p in model.parameters())
