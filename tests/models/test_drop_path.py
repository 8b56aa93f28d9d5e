"""Drop path draws for every image of the whole batch, whichever of them a pass encodes."""

import pytest
import torch

from repre.models.drop_path import BatchSlice, DropPath

CPU = torch.device("cpu")


def drop(batch_slice: BatchSlice, x: torch.Tensor, *, scale: bool = True) -> torch.Tensor:
    torch.manual_seed(0)
    layers = [DropPath(0.4, batch_slice, scale=scale) for _ in range(3)]
    for layer in layers:
        x = layer(x)
    return x


def test_micro_batches_draw_what_the_whole_batch_draws() -> None:
    views, total = 2, 7
    x = torch.arange(1.0, 1 + views * total * 3).reshape(views, total, 3)
    whole = drop(BatchSlice(), x.flatten(0, 1)).unflatten(0, (views, total))
    assert 0 < (whole == 0).float().mean() < 1
    batch_slice = BatchSlice()
    for start, stop in ((0, 2), (2, 5), (5, 7)):
        batch_slice.select(start, stop, total=total, device=CPU)
        part = drop(batch_slice, x[:, start:stop].flatten(0, 1))
        assert torch.equal(part.unflatten(0, (views, stop - start)), whole[:, start:stop])


@pytest.mark.parametrize(("scale", "remaining"), [(True, 1 / 0.6), (False, 1.0)])
def test_whole_images_are_dropped_and_the_rest_is_scaled_up(scale: bool, remaining: float) -> None:
    torch.manual_seed(0)
    output = DropPath(0.4, BatchSlice(), scale=scale)(torch.ones(5000, 2, 2)).flatten(1)
    assert (output == output[:, :1]).all()
    assert sorted(output.unique().tolist()) == pytest.approx([0.0, remaining])
    assert abs(float((output[:, 0] == 0).float().mean()) - 0.4) < 0.03


def test_nothing_is_dropped_in_evaluation_or_at_probability_0() -> None:
    x = torch.ones(8, 2)
    assert torch.equal(DropPath(0.9, BatchSlice()).eval()(x), x)
    assert torch.equal(DropPath(0.0, BatchSlice())(x), x)


def test_the_whole_batch_needs_no_index() -> None:
    batch_slice = BatchSlice()
    batch_slice.select(1, 3, total=4, device=CPU)
    assert batch_slice.index is not None
    assert batch_slice.index.tolist() == [1, 2]
    batch_slice.select(0, 4, total=4, device=CPU)
    assert batch_slice.index is None
