"""Clipping of the whole gradient and of each parameter's, against loops, also where parameters are split over processes."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from repre.training.clip_gradients import clip_gradients
from repre.utils.fsdp import full_tensors, is_dtensor, shard

NAN, NO, YES = torch.tensor(torch.nan), torch.tensor(False), torch.tensor(True)


@pytest.mark.parametrize(("limit", "expected"), [(0.5, 0.5), (1e3, 10.0), (None, 10.0)])
def test_clipping_shortens_to_the_limit_and_never_lengthens(limit: float | None, expected: float) -> None:
    gradients = [torch.full((2, 3), 10 / 8**0.5), torch.full((2,), 10 / 8**0.5)]  # 8 values of norm 10 in all
    clip_gradients(gradients, NAN, limit, unless=YES)
    assert float(nn.utils.get_total_norm(gradients)) == pytest.approx(10.0, rel=1e-5)
    clip_gradients(gradients, torch.tensor(10.0), limit, unless=NO)
    assert float(nn.utils.get_total_norm(gradients)) == pytest.approx(expected, rel=1e-5)


def clip_in_a_loop(gradients: list[Tensor], limit: float) -> list[Tensor]:
    """One parameter after the other."""
    clipped = []
    for gradient in gradients:
        norm = float(gradient.square().sum()) ** 0.5
        clipped.append(gradient * limit / (norm + 1e-6) if norm > limit else gradient.clone())
    return clipped


def test_each_parameter_is_clipped_by_its_own_norm() -> None:
    gradients = [torch.randn(5, 3) * 10, torch.randn(4) * 1e-3, torch.zeros(2), torch.randn(2, 2, 2)]
    expected = clip_in_a_loop(gradients, 1.0)
    before = [gradient.clone() for gradient in gradients]
    clip_gradients(gradients, NAN, 1.0, unless=YES, each=True)
    assert all(map(torch.equal, gradients, before))
    clip_gradients(gradients, NAN, None, unless=NO, each=True)
    assert all(map(torch.equal, gradients, before))
    clip_gradients(gradients, NAN, 1.0, unless=NO, each=True)
    for mine, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(mine, theirs)
    assert torch.equal(gradients[1], before[1])  # shorter than the limit


def process(number: int, folder: str) -> None:
    """Clips gradients of which some are split, unevenly: of three rows one process holds two, of one row all."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=number, world_size=2)
    try:
        torch.manual_seed(0)
        split, whole = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1)), torch.randn(3, 2)
        shard(split, device=torch.device("cpu"))
        split(torch.randn(5, 4)).square().sum().backward()
        gradients = [p.grad for p in split.parameters() if p.grad is not None] + [whole]
        assert [is_dtensor(g) for g in gradients] == [True] * 4 + [False]
        before = [*full_tensors(gradients[:-1]), whole.clone()]
        clip_gradients(gradients, NAN, 0.1, unless=NO, each=True)
        after = [*full_tensors(gradients[:-1]), whole]
        torch.save((before, after), Path(folder) / f"{number}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_norms_of_split_parameters_are_those_of_the_whole(tmp_path: Path) -> None:
    mp.spawn(process, args=(str(tmp_path),), nprocs=2)
    before, after = torch.load(tmp_path / "0.pt", weights_only=True)
    assert all(float(gradient.norm()) > 0.1 for gradient in before)
    for mine, theirs in zip(after, clip_in_a_loop(before, 0.1), strict=True):
        torch.testing.assert_close(mine, theirs)
